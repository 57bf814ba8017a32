"""The tail in a worker of TorchServe's own code, through its binary protocol; no Java."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from toys.serving import (
    CLASSES,
    PREPROCESSING,
    Ask,
    Worker,
    answer_of,
    ask_of,
    head_of,
    scores_of,
    tensor_request,
    toy_photos,
    whole,
)

from isplit_plugin import image
from isplit_plugin.network import CapturedNetwork
from isplit_plugin.schema import Cut, Manifest
from isplit_plugin.wire import (
    HEADER,
    TailRequest,
    Tensor,
    encode_images,
)


def ask(
    manifest: Manifest,
    values: np.ndarray,
    split_point: str,
    codec: str = "fp32",
    *,
    explain: bool = False,
    **fields: Any,
) -> Ask:
    fields.setdefault("network_hash", manifest.network_hash)
    return ask_of(tensor_request(values, split_point, codec, **fields), explain=explain)


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(7)
    return torch.randn(3, 3, 16, 16)


@pytest.mark.parametrize(
    "how", [(p, b) for p in ("input", "relu1", "relu2") for b in (True, False)]
)
def test_a_split_request_answers_what_the_whole_network_does(
    worker: Worker, manifest: Manifest, net: CapturedNetwork, x: torch.Tensor, how: tuple[str, bool]
) -> None:
    point, binary = how
    values = head_of(net, point, x)
    outputs = frozenset(
        {"top_class", "top_score", "top_probability", "top_label", "scores"} if binary else ()
    )
    [reply] = worker(ask(manifest, values, point, scores=True, id="mine", binary_outputs=outputs))
    got, expected = answer_of(reply), whole(net, x)
    assert (HEADER in reply.headers) == binary
    np.testing.assert_allclose(scores_of(got), expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(got.top_class, np.argsort(-expected, axis=1)[:, :5])
    assert got.top_label[0][0] == CLASSES[expected[0].argmax()]
    np.testing.assert_allclose(got.top_probability.sum(axis=1), 1.0, atol=1e-6)
    assert (got.split_point, got.network_hash, got.model) == (point, manifest.network_hash, "toy")
    assert (got.id, got.request_id) == ("mine", "request-0")
    assert got.tail_ms > 0
    assert got.decode_ms > 0


def test_an_answer_says_how_long_its_request_waited_for_others(
    worker: Worker, manifest: Manifest, net: CapturedNetwork, x: torch.Tensor
) -> None:
    points = ("relu1", "relu2")
    replies = worker(*(ask(manifest, head_of(net, point, x), point) for point in points))
    first, second = (answer_of(reply) for reply in replies)
    # All of the first one's work was done by then.
    assert second.queue_ms >= first.tail_ms + first.decode_ms - 0.01
    # It waited for the second one to be decoded.
    assert first.queue_ms >= second.decode_ms - 0.01


def test_photos_are_preprocessed_on_the_server(
    worker: Worker, manifest: Manifest, net: CapturedNetwork
) -> None:
    [pixels] = toy_photos(1, size=(20, 24))
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    prepared = image.preprocess(buffer.getvalue(), PREPROCESSING)
    expected = whole(net, torch.from_numpy(prepared)[None])[0]
    bare = Ask(buffer.getvalue(), {}, content_type="image/png")
    packed = TailRequest(
        cut=Cut("input", "file"), tensor=encode_images([buffer.getvalue()] * 2, "file")
    )
    for got in map(answer_of, worker(bare, ask_of(packed))):
        assert got.top_class[0, 0] == expected.argmax()
        np.testing.assert_allclose(got.top_score[0, 0], expected.max(), atol=1e-6)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_server_reads_few_formats(
    worker: Worker, manifest: Manifest, name: str, packed: bool
) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(toy_photos(1)[0]).save(buffer, name)
    request = TailRequest(
        cut=Cut("input", "file"), tensor=encode_images([buffer.getvalue()], "file")
    )
    [got] = worker(ask_of(request) if packed else Ask(buffer.getvalue(), {}))
    if name in image.WIRE_FORMATS:
        assert got.status == 200
        return
    assert (got.status, got.json["code"]) == (400, "not_an_image")
    assert "expected JPEG, PNG, WebP or AVIF, got" in got.json["error"]


def test_a_jpeg_is_cropped_by_the_device(
    worker: Worker, manifest: Manifest, net: CapturedNetwork
) -> None:
    cropped = image.to_jpeg(PIL.Image.fromarray(toy_photos(1)[0]))
    [good] = worker(
        ask_of(TailRequest(cut=Cut("input", "jpeg"), tensor=encode_images([cropped], "jpeg")))
    )
    prepared = image.normalize(image.load(cropped), PREPROCESSING)
    expected = whole(net, torch.from_numpy(prepared)[None])[0]
    np.testing.assert_allclose(answer_of(good).top_score[0, 0], expected.max(), atol=1e-6)
    large = image.to_jpeg(PIL.Image.fromarray(toy_photos(1, size=(32, 32))[0]))
    [bad] = worker(
        ask_of(TailRequest(cut=Cut("input", "jpeg"), tensor=encode_images([large], "jpeg")))
    )
    assert (bad.status, bad.json["code"]) == (400, "not_an_image")
    assert "cropped to 16x16, got 32x32" in bad.json["error"]
    buffer = io.BytesIO()
    PIL.Image.fromarray(toy_photos(1)[0]).save(buffer, "PNG")
    [other] = worker(
        ask_of(
            TailRequest(cut=Cut("input", "jpeg"), tensor=encode_images([buffer.getvalue()], "jpeg"))
        )
    )
    assert (other.status, other.json["code"]) == (400, "not_an_image")
    assert "expected JPEG, got PNG" in other.json["error"]


def test_json_tensors(
    worker: Worker, manifest: Manifest, net: CapturedNetwork, x: torch.Tensor
) -> None:
    values = head_of(net, "relu2", x[:1])
    body = {
        "parameters": {
            "isplit_split_point": "relu2",
            "isplit_network": manifest.network_hash,
            "isplit_top_k": 1,
        },
        "inputs": [
            {
                "name": "activation",
                "datatype": "FP32",
                "shape": [1, 8, 4, 4],
                "data": values.ravel().tolist(),
            }
        ],
    }
    [reply] = worker(Ask(json.dumps(body).encode(), {}, content_type="application/json"))
    assert answer_of(reply).top_class.tolist() == [[int(whole(net, x[:1]).argmax())]]


BAD: dict[str, tuple[Ask, int, str]] = {
    "garbage": (Ask(b"\x00\x01garbage", {}), 400, "malformed_request"),
    "empty": (Ask(b"", {}), 400, "malformed_request"),
    "none": (Ask(None, {}), 400, "malformed_request"),
    "a form": (Ask(b"xyz", {}, field="photo"), 400, "malformed_request"),
    "broken photo": (
        Ask(b"\xff\xd8\xff\xe0" + b"\x00" * 64, {}, content_type="image/jpeg"),
        400,
        "not_an_image",
    ),
    "length beyond the body": (Ask(b"{}", {HEADER: "4000"}), 400, "malformed_request"),
    "broken JSON": (Ask(b"{", {}, content_type="application/json"), 400, "malformed_request"),
    "JSON list": (Ask(b"[1]", {}, content_type="application/json"), 400, "malformed_request"),
    "text": (Ask(b"hello", {}, content_type="text/plain"), 400, "malformed_request"),
}


def test_one_bad_request_fails_alone(
    worker: Worker,
    manifest: Manifest,
    net: CapturedNetwork,
    x: torch.Tensor,
    capfd: pytest.CaptureFixture[str],
) -> None:
    values = {p: head_of(net, p, x) for p in ("relu1", "relu2")}
    expected = whole(net, x)
    for name, (bad, status, code) in BAD.items():
        replies = worker(
            ask(manifest, values["relu1"][:1], "relu1", scores=True),
            bad,
            ask(manifest, values["relu2"][1:2], "relu2", scores=True),
            ask(manifest, values["relu1"][2:], "relu1", scores=True),
        )
        assert (replies[1].status, replies[1].json["code"]) == (status, code), name
        assert replies[1].headers["content-type"] == "application/json"
        for row, reply in enumerate((replies[0], replies[2], replies[3])):
            scores = scores_of(answer_of(reply))
            np.testing.assert_allclose(scores, expected[row : row + 1], rtol=0, atol=1e-6)


def test_requests_that_do_not_fit_this_network(
    worker: Worker, manifest: Manifest, net: CapturedNetwork, x: torch.Tensor
) -> None:
    values = head_of(net, "relu1", x[:1])
    stale, unknown, not_deployed, codec = worker(
        ask(manifest, values, "relu1", network_hash="0" * 64),
        ask(manifest, values, "relu9"),
        ask(manifest, head_of(net, "conv1", x[:1]), "conv1"),
        ask(manifest, values[:, :, :4], "relu1"),
    )
    assert (stale.status, stale.json["code"]) == (409, "network_mismatch")
    assert stale.json["details"] == {"head": "0" * 16, "tail": manifest.network_hash}
    assert (unknown.status, unknown.json["code"]) == (404, "unknown_split_point")
    assert (not_deployed.status, not_deployed.json["code"]) == (404, "unknown_split_point")
    assert (codec.status, codec.json["code"]) == (400, "malformed_request")


def test_a_group_that_fails_together_is_tried_one_by_one(
    worker: Worker,
    manifest: Manifest,
    net: CapturedNetwork,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    x = torch.randn(3, 3, 16, 16)
    real, poisoned = worker.handler._runner._tails["relu2"], head_of(net, "relu2", x[1:2])

    def tail(values: torch.Tensor) -> torch.Tensor:
        if (values.numpy() == poisoned).all(axis=(1, 2, 3)).any():
            raise RuntimeError("no luck\r\n[METRICS]forged.Count:1|#Level:Model")
        return real(values)

    monkeypatch.setitem(worker.handler._runner._tails, "relu2", tail)
    asks = [
        ask(manifest, head_of(net, "relu2", x[i : i + 1]), "relu2", scores=True) for i in range(3)
    ]
    first, second, third = worker(*asks)
    expected = whole(net, x)
    np.testing.assert_allclose(scores_of(answer_of(first)), expected[:1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(scores_of(answer_of(third)), expected[2:], rtol=0, atol=1e-6)
    assert (second.status, second.json["code"]) == (500, "internal")
    assert "luck" not in second.body.decode()
    logged = [r.getMessage() for r in caplog.records if "luck" in r.getMessage()]
    assert logged
    assert not any(c in line for line in logged for c in "\r\n")


def test_an_answer_above_the_limit_is_refused(
    worker: Worker,
    manifest: Manifest,
    net: CapturedNetwork,
    x: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = worker.handler.settings.model_copy(update={"max_response_size": 1000})
    monkeypatch.setattr(worker.handler, "settings", small)
    values = head_of(net, "relu2", x[:1].repeat(40, 1, 1, 1))
    large, fits = worker(
        ask(manifest, values, "relu2", scores=True, top_k=1),
        ask(manifest, values[:1], "relu2", top_k=1),
    )
    assert (large.status, large.json["code"]) == (413, "too_large")
    assert fits.status == 200


def test_counting_never_costs_an_answer(
    worker: Worker,
    manifest: Manifest,
    net: CapturedNetwork,
    x: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(worker.handler._metrics, "served", broken)
    monkeypatch.setattr(worker.handler._statistics, "observe", broken)
    values = head_of(net, "relu1", x[:1])
    (reply,) = worker(ask(manifest, values, "relu1", scores=True))
    np.testing.assert_allclose(scores_of(answer_of(reply)), whole(net, x)[:1], rtol=0, atol=1e-6)


def test_scores_that_are_not_finite(worker: Worker, manifest: Manifest) -> None:
    # Finite activations, each fine on its own, whose sum is not.
    values = np.full((1, 4, 8, 8), 3e38, np.float32)
    [reply] = worker(ask(manifest, values, "relu1"))
    assert (reply.status, reply.json["code"]) == (400, "malformed_request")


def test_a_decoded_size_beyond_the_limit_is_refused_before_it_is_allocated(
    worker: Worker, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isplit_plugin.serving.tail.request.MAX_DECODED_BYTES", 4 * 4 * 8 * 8 * 2)
    zeros = np.zeros((3, 4, 8, 8), np.float32)
    refused, served = worker(
        ask(manifest, zeros, "relu1", "uint8+zstd"), ask(manifest, zeros[:2], "relu1")
    )
    assert (refused.status, refused.json["code"]) == (413, "too_large")
    assert served.status == 200


def test_more_than_the_response_timeout_allows_is_told_to_come_again(
    worker: Worker,
    manifest: Manifest,
    net: CapturedNetwork,
    x: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker.handler._runner, "max_batch_items", 4)
    values = head_of(net, "relu1", x)
    two = ask(manifest, values[:2], "relu1")
    first, second, explained, third = worker(
        two, two, ask(manifest, values[:1], "relu1", explain=True), two
    )
    assert (first.status, second.status) == (200, 200)
    for refused in (explained, third):
        assert (refused.status, refused.json["code"]) == (503, "busy")
    [alone] = worker(ask(manifest, values, "relu1"))
    assert alone.status == 200


@pytest.mark.parametrize(("timeout", "expected"), [(60, 64), (1e-6, 1)])
def test_the_size_of_a_request_follows_from_speed_and_timeout(
    model_dir: Path, store_url: str, timeout: float, expected: int
) -> None:
    manifest = json.loads((model_dir / "manifest.json").read_text())
    del manifest["files"]["model-config.yaml"]
    (model_dir / "manifest.json").write_text(json.dumps(manifest))
    (model_dir / "model-config.yaml").write_text(
        f"responseTimeout: {timeout:f}\nisplit: {{sampling: 0.0}}\n"
    )
    worker = Worker(model_dir)
    assert worker.handler.describe()["max_batch"] == expected
    worker.close()


def test_many_megapixels_in_one_request(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "MAX_PIXELS", 2 * 16 * 16)
    buffer = io.BytesIO()
    PIL.Image.fromarray(toy_photos(1)[0]).save(buffer, "PNG")
    for count, status in ((2, 200), (3, 400)):
        tensor = encode_images([buffer.getvalue()] * count, "file")
        [reply] = worker(ask_of(TailRequest(cut=Cut("input", "file"), tensor=tensor)))
        assert reply.status == status


@pytest.mark.parametrize("point", ["input", "relu1", "relu2"])
def test_explanations_are_the_networks_importance(
    worker: Worker, manifest: Manifest, net: CapturedNetwork, x: torch.Tensor, point: str
) -> None:
    values = head_of(net, point, x)
    explained, predicted = worker(
        ask(manifest, values, point, explain=True), ask(manifest, values, point)
    )
    assert explained.status == 200
    expected = net.importance(x)
    first = 0 if point == "input" else [p.name for p in net.split_points].index(point)
    for row, item in enumerate(explained.json["items"]):
        assert item["class_id"] == expected.target[row] == answer_of(predicted).top_class[row, 0]
        assert [p["split_point"] for p in item["curve"]] == [p.name for p in net.split_points][
            first:
        ]
        np.testing.assert_allclose(
            [p["cui"] for p in item["curve"]], expected.values[row, first:], rtol=1e-5
        )


def test_describe_tells_what_is_served(
    worker: Worker, manifest: Manifest, net: CapturedNetwork, x: torch.Tensor
) -> None:
    worker(ask(manifest, head_of(net, "relu1", x[:1]), "relu1"), Ask(b"", {}))
    [reply] = worker(Ask(None, {"describe": "True"}))
    status = reply.json
    assert status["split_points"] == ["input", "relu1", "relu2"]
    assert status["served"] == {"relu1": 1}
    assert status["errors"] == {"malformed_request": 1}
    assert status["network_hash"] == manifest.network_hash


def test_a_client_of_the_inference_port_gets_no_counters(worker: Worker) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    describe = {"describe": "True"}
    for asked in (
        Ask(b"", describe),
        Ask(b"x", describe),
        Ask(None, {**describe, **form}),
        Ask(None, {**describe, "content-type": "text/plain"}),
        Ask(None, {"Describe": "True"}),
    ):
        [reply] = worker(asked)
        assert (reply.status, reply.json["code"]) == (400, "malformed_request")


@pytest.mark.parametrize("body", [b'"\\ud800"', b'"text"', b'{"inputs": ["\\ud800"]}', b"[1e999]"])
def test_json_that_is_no_request(worker: Worker, body: bytes) -> None:
    [reply] = worker(Ask(body, {}, content_type="application/json"))
    assert (reply.status, reply.json["code"]) == (400, "malformed_request")


def test_metrics_are_written_as_torchserve_reads_them(
    worker: Worker,
    manifest: Manifest,
    net: CapturedNetwork,
    x: torch.Tensor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    asked = ask(manifest, head_of(net, "relu1", x[:1]), "relu1")
    assert asked.body is not None
    worker(asked, Ask(b"", {}))
    worker.handler._metrics.flush()
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("[METRICS]isplit")]
    names = {line.removeprefix("[METRICS]").split(".")[0] for line in lines}
    assert names == {
        "isplit_requests_total",
        "isplit_received_bytes_total",
        "isplit_decode_milliseconds_total",
        "isplit_tail_milliseconds_total",
        "isplit_errors_total",
    }
    assert any(
        f"isplit_received_bytes_total.Count:{len(asked.body)}|#ModelName:toy,ModelVersion:1.0,SplitPoint:relu1,Codec:fp32"
        in n
        for n in lines
    )


@pytest.mark.parametrize(
    "name", ["network.pt2", "profile.safetensors", "tail_handler.py", "model-config.yaml"]
)
def test_a_file_that_was_changed_is_named(model_dir: Path, store_url: str, name: str) -> None:
    path = model_dir / name
    path.write_bytes(path.read_bytes() + b"\n")
    # By name: the handler is loaded from the archive.
    with pytest.raises(
        Exception, match=f"{name} of model 'toy' is not the file that was packaged"
    ) as error:
        Worker(model_dir)
    assert type(error.value).__name__ == "BundleError"


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"format": 99}', b"\xff"])
def test_a_manifest_that_cannot_be_read(model_dir: Path, store_url: str, damage: bytes) -> None:
    (model_dir / "manifest.json").write_bytes(damage)
    with pytest.raises(Exception, match=r"manifest\.json"):
        Worker(model_dir)


def test_a_tensor_of_an_unknown_name(worker: Worker, manifest: Manifest) -> None:
    tensor = Tensor.of("picture", np.zeros((1, 4, 8, 8), np.float32))
    request = TailRequest(
        cut=Cut("relu1", "fp32"), tensor=tensor, network_hash=manifest.network_hash
    )
    [reply] = worker(ask_of(request))
    assert (reply.status, reply.json["code"]) == (400, "malformed_request")
