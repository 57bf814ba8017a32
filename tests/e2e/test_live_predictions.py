"""Predictions through a real server equal the network run whole."""

from __future__ import annotations

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from toys.live_server import Live
from toys.serving import PREPROCESSING, head_of, scores_of, tensor_request, toy_photos, whole

from isplit_plugin import image
from isplit_plugin.schema import Cut
from isplit_plugin.wire import TailRequest, TailResponse


def _same(got: TailResponse, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(scores_of(got), expected, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(
        got.top_class, np.argsort(-expected, axis=1, kind="stable")[:, :5]
    )


def _resnet_inputs(count: int = 2) -> torch.Tensor:
    torch.manual_seed(11)
    return torch.randn(count, 3, 64, 64)


def _request(
    live: Live, values: np.ndarray, point: str = "layer2", codec: str = "fp32"
) -> TailRequest:
    outputs = frozenset({"scores", "top_class", "top_score", "top_probability", "top_label"})
    return tensor_request(
        values,
        point,
        codec,
        network_hash=live.resnet.manifest.network_hash,
        scores=True,
        binary_outputs=outputs,
    )


@pytest.mark.parametrize("point", ["input", "relu1", "relu2"])
def test_a_toy_split_anywhere(live: Live, point: str) -> None:
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    values = head_of(live.toy.net, point, x)
    request = tensor_request(
        values, point, network_hash=live.toy.manifest.network_hash, scores=True
    )
    _same(live.predict("toy", request), whole(live.toy.net, x), 1e-5)


def test_a_codec_of_another_package(live: Live) -> None:
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    activation = head_of(live.toy.net, "relu1", x)
    network_hash = live.toy.manifest.network_hash
    exact = tensor_request(activation, "relu1", network_hash=network_hash, scores=True)
    coded = tensor_request(
        activation, "relu1", "bfloat16+zstd", network_hash=network_hash, scores=True
    )
    assert coded.tensor.nbytes < exact.tensor.nbytes
    _same(live.predict("toy", coded), whole(live.toy.net, x), 0.05)
    exact_scores = scores_of(live.predict("toy", exact))
    coded_scores = scores_of(live.predict("toy", coded))
    assert not np.array_equal(exact_scores, coded_scores)


def test_a_torch_head_of_resnet18(live: Live) -> None:
    x = _resnet_inputs()
    _same(
        live.predict("resnet18", _request(live, head_of(live.resnet.net, "layer2", x))),
        whole(live.resnet.net, x),
        1e-5,
    )


def test_the_onnx_head_of_the_bundle(live: Live) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    with zipfile.ZipFile(live.resnet.built.bundle) as bundle:
        manifest = json.loads(bundle.read("manifest.json"))
        head = bundle.read("heads/layer2.onnx")
        assert set(manifest["files"]) == set(bundle.namelist()) - {"manifest.json"}
        assert set(manifest["files"]) == {"heads/layer2.onnx", "heads/layer2.pt2"}
    assert manifest["files"]["heads/layer2.onnx"] == sha256(head).hexdigest()
    assert manifest["network_hash"] == live.resnet.manifest.network_hash
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(head, options, providers=["CPUExecutionProvider"])
    x = _resnet_inputs(3)
    (values,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    _same(live.predict("resnet18", _request(live, values)), whole(live.resnet.net, x), 1e-4)


@pytest.mark.parametrize("codec", ["fp16", "uint8", "uint8+zstd"])
def test_compressed_activations_answer_what_the_tail_answers_for_the_decoded_ones(
    live: Live, codec: str
) -> None:
    x = _resnet_inputs()
    request = _request(live, head_of(live.resnet.net, "layer2", x), codec=codec)
    decoded = TailRequest(
        cut=Cut("layer2", codec), tensor=request.tensor, shape=(128, 8, 8)
    ).activation()
    with torch.inference_mode():
        expected = live.resnet.net.bisect("layer2")[1](torch.from_numpy(decoded.copy())).numpy()
    _same(live.predict("resnet18", request), expected, 1e-5)


def test_a_bare_photo_takes_the_whole_network(live: Live) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(toy_photos(1, size=(40, 30))[0]).save(buffer, "JPEG")
    expected = whole(
        live.toy.net, torch.from_numpy(image.preprocess(buffer.getvalue(), PREPROCESSING))[None]
    )
    answer = live.post("predictions/toy", buffer.getvalue(), headers={"Content-Type": "image/jpeg"})
    outputs = {o["name"]: o["data"] for o in answer.json()["outputs"]}
    assert outputs["top_class"][0] == expected.argmax()
    np.testing.assert_allclose(outputs["top_score"][0], expected.max(), atol=1e-5)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif"])
def test_a_photo_as_a_file_by_curl(live: Live, tmp_path: Path, suffix: str) -> None:
    import subprocess

    photo = tmp_path / f"photo.{suffix}"
    PIL.Image.fromarray(toy_photos(1)[0]).save(photo)
    command = [
        "curl",
        "-sS",
        "-H",
        f"Authorization: Bearer {live.server.token()}",
        "-T",
        str(photo),
    ]
    run = subprocess.run(
        [*command, f"{live.server.inference_url}/predictions/toy"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {o["name"] for o in json.loads(run.stdout)["outputs"]} >= {"top_class", "top_label"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tritonclient's and gevent's own
def test_a_stock_triton_client_is_answered(live: Live) -> None:
    client_module = pytest.importorskip("tritonclient.http")
    x = _resnet_inputs()
    values = head_of(live.resnet.net, "layer2", x)
    tensor = client_module.InferInput("activation", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    wanted = [
        client_module.InferRequestedOutput(n, binary_data=True) for n in ("top_class", "scores")
    ]
    client = client_module.InferenceServerClient(live.server.inference_url.removeprefix("http://"))
    try:
        headers = {"Authorization": f"Bearer {live.server.token()}"}
        answer = client.infer("resnet18", [tensor], outputs=wanted, headers=headers)
    finally:
        client.close()
    expected = whole(live.resnet.net, x)
    np.testing.assert_allclose(answer.as_numpy("scores"), expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(answer.as_numpy("top_class")[:, 0], expected.argmax(axis=1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tritonclient's and gevent's own
def test_what_a_stock_triton_client_is_told_about_health(live: Live) -> None:
    client_module = pytest.importorskip("tritonclient.http")
    client = client_module.InferenceServerClient(live.server.inference_url.removeprefix("http://"))
    headers = {"Authorization": f"Bearer {live.server.token()}"}
    try:
        assert client.is_server_live(headers=headers)
        assert client.is_server_ready(headers=headers)
        assert client.get_server_metadata(headers=headers)["name"] == "Torchserve"
        assert not client.is_server_live()  # without a token, as for every route
        # TorchServe has no route for one model; docs/reference/wire.md says what to ask instead.
        for version in ("", "1.0"):
            assert not client.is_model_ready("resnet18", version, headers=headers)
    finally:
        client.close()
    assert live.get("ping").json() == {"status": "Healthy"}
    assert "READY" in live.server.status("resnet18").workers


def test_many_at_once_at_different_split_points_with_broken_ones_among_them(live: Live) -> None:
    x = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    expected = whole(live.toy.net, x)
    points = ["input", "relu1", "relu2"]

    def one(i: int) -> int:
        if i % 5 == 4:
            broken = live.post("predictions/toy", b"\x00 broken")
            assert (broken.status_code, broken.json()["code"]) == (400, "malformed_request")
            return 0
        point = points[i % 3]
        values = head_of(live.toy.net, point, x[i : i + 1])
        request = tensor_request(
            values, point, network_hash=live.toy.manifest.network_hash, scores=True
        )
        _same(live.predict("toy", request), expected[i : i + 1], 1e-5)
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, range(24))) == 20


def test_an_explanation_is_the_importance_of_this_input(live: Live) -> None:
    x = _resnet_inputs()
    answer = live.send(
        "resnet18", _request(live, head_of(live.resnet.net, "layer2", x)), kind="explanations"
    )
    assert answer.status_code == 200, answer.text
    expected = live.resnet.net.importance(x)
    first = expected.split_points.index("layer2")
    for row, item in enumerate(answer.json()["items"]):
        assert item["class_id"] == expected.target[row]
        assert [p["split_point"] for p in item["curve"]] == list(expected.split_points[first:])
        np.testing.assert_allclose(
            [p["cui"] for p in item["curve"]], expected.values[row, first:], rtol=4e-3, atol=1e-9
        )
