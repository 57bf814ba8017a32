"""The device's client against the real server: head here, tail there, the answer of the whole
network.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from toys.live_server import Live, Model
from toys.serving import CLASSES, PREPROCESSING, profile_of, toy_network, toy_photos, whole

from isplit_plugin import image
from isplit_plugin.client import SplitClient
from isplit_plugin.errors import AuthenticationError, NetworkMismatchError, UnknownModelError
from isplit_plugin.photo_codecs import write_photo
from isplit_plugin.schema import ON_DEVICE, Cut, Prediction
from isplit_plugin.serving.packaging import build_head_bundle, make_manifest


def _expected(model: Model, photos: np.ndarray) -> np.ndarray:
    x = np.stack([image.preprocess(p, model.manifest.preprocessing) for p in photos])
    return whole(model.net, torch.from_numpy(x))


def _same(got: Prediction, expected: np.ndarray, tolerance: float) -> None:
    assert got.scores is not None
    np.testing.assert_allclose(got.scores, expected, rtol=0, atol=tolerance)
    assert [t.class_id for t in got.top] == np.argsort(-expected, kind="stable")[:5].tolist()


@pytest.mark.parametrize("point", ["input", "relu1", "relu2", "output"])
def test_onnx_heads(live: Live, point: str) -> None:
    photos = toy_photos(3, seed=31)
    cut = ON_DEVICE if point == "output" else Cut(point, "fp32")
    with SplitClient(
        live.server.inference_url,
        model="toy",
        head=live.toy.built.bundle,
        token=live.server.token,
        threads=1,
        raw_scores=True,
    ) as client:
        one = client.predict(photos[0], cut)
        many = client.predict_batch(list(photos), cut)
    expected = _expected(live.toy, photos)
    _same(one, expected[0], 1e-4)
    for got, scores in zip(many, expected, strict=True):
        _same(got, scores, 1e-4)
        assert got.label == CLASSES[int(scores.argmax())]
    assert one.cut == cut
    assert (one.bytes_sent == 0) == (point == "output")


def test_torch_heads_are_closer(live: Live) -> None:
    [photo] = toy_photos(1, seed=32, size=(64, 64))
    pinned = sha256(live.resnet.built.bundle.read_bytes()).hexdigest()
    with SplitClient(
        live.server.inference_url,
        model="resnet18",
        head=live.resnet.built.bundle,
        token=live.server.token,
        runtime="torch",
        trust_pt2=pinned,
        raw_scores=True,
    ) as client:
        got = client.predict(photo, cut=Cut("layer2", "fp32"))
    _same(got, _expected(live.resnet, photo[None])[0], 1e-5)
    assert got.timings.tail_ms > 0
    assert got.timings.round_trip_ms >= got.timings.tail_ms


def test_a_jpeg_and_a_file_take_the_whole_network(live: Live, tmp_path: Path) -> None:
    import PIL.Image

    path = tmp_path / "photo.png"
    [photo] = toy_photos(1, seed=33, size=(20, 30))
    PIL.Image.fromarray(photo).save(path)
    with SplitClient(
        live.server.inference_url,
        model="toy",
        head=live.toy.built.bundle,
        token=live.server.token,
        raw_scores=True,
    ) as client:
        _same(
            client.predict(path, cut=Cut("input", "file")),
            _expected(live.toy, photo[None])[0],
            1e-5,
        )
        cropped = image.to_jpeg(image.crop(path, PREPROCESSING), 90)
        x = torch.from_numpy(image.normalize(image.load(cropped), PREPROCESSING))[None]
        _same(client.predict(path, cut=Cut("input", "jpeg", 90)), whole(live.toy.net, x)[0], 1e-5)
        for coding in ("webp@90", "avif@80"):
            prediction = client.predict(path, cut=f"input:{coding}")
            cut = Cut.of("input", coding)
            assert prediction.cut == cut
            assert cut.quality is not None
            sent = write_photo(image.crop(path, PREPROCESSING), cut.codec, cut.quality)
            x = torch.from_numpy(image.normalize(image.load(sent).convert("RGB"), PREPROCESSING))
            _same(prediction, whole(live.toy.net, x[None])[0], 1e-5)
        usual = client.predict(path, cut="input").cut
        assert usual.is_photo
        assert usual.quality is not None
    with SplitClient(
        live.server.inference_url, model="toy", token=live.server.token, raw_scores=True
    ) as headless:
        _same(headless.predict(path), _expected(live.toy, photo[None])[0], 1e-5)


def test_the_advice_can_be_taken(live: Live) -> None:
    with SplitClient(
        live.server.inference_url,
        model="toy",
        head=live.toy.built.bundle,
        token=live.server.token,
        raw_scores=True,
    ) as client:
        client.predict(toy_photos(1)[0])
        advice = client.recommendation()
        client.use(advice)
        got = client.predict(toy_photos(1)[0])
    assert advice.network_hash == live.toy.manifest.network_hash
    assert got.cut == advice.cut


def test_a_head_of_another_network_is_told_so(live: Live, tmp_path: Path) -> None:
    other = toy_network(seed=77)
    manifest, _ = make_manifest(
        other,
        model="toy",
        version="1.0",
        profile=profile_of(other, torch.randn(6, 3, 16, 16)),
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        deployed=["relu1"],
    )
    bundle, _ = build_head_bundle(other, manifest=manifest, include_output=False, out_dir=tmp_path)
    with (
        SplitClient(
            live.server.inference_url,
            model="toy",
            head=bundle,
            token=live.server.token,
            raw_scores=True,
        ) as client,
        pytest.raises(NetworkMismatchError) as error,
    ):
        client.predict(toy_photos(1)[0])
    assert error.value.details == {
        "head": manifest.network_hash[:16],
        "tail": live.toy.manifest.network_hash,
    }


def test_tokens_models_and_their_errors(live: Live) -> None:
    url, bundle, [photo] = live.server.inference_url, live.toy.built.bundle, toy_photos(1)
    with (
        SplitClient(url, model="toy", head=bundle, token="wrong", raw_scores=True) as client,
        pytest.raises(AuthenticationError),
    ):
        client.predict(photo, cut="relu1")
    with (
        SplitClient(
            url, model="nobody", head=bundle, token=live.server.token, raw_scores=True
        ) as client,
        pytest.raises(UnknownModelError),
    ):
        client.predict(photo, cut="relu1")
    with SplitClient(
        url, model="toy", head=bundle, token=live.server.token, raw_scores=True
    ) as client:
        client.predict(photo, cut="relu1")
        live.server.renew_token()  # the client asks its callable again
        client.predict(photo, cut="relu1")
