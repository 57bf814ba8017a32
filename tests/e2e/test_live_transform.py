"""Transform coding through the real server: fitted, corrected, profiled, packaged, served, asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from toys.serving import CLASSES, PREPROCESSING, decided_network

from isplit_plugin import image as im
from isplit_plugin.cli import main
from isplit_plugin.client import SplitClient
from isplit_plugin.network import CapturedNetwork, fit_correctors, fit_transforms, profile
from isplit_plugin.schema import Cut
from isplit_plugin.serving.launcher import TorchServe
from isplit_plugin.serving.packaging import package
from isplit_plugin.wire import Transform, decode_activation, encode_activation


def smooth_photos(count: int) -> list[PIL.Image.Image]:
    rng = np.random.default_rng(4)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return [PIL.Image.fromarray(each).resize((16, 16)) for each in coarse]


def plain_scores(net: CapturedNetwork, transform: Transform, x: torch.Tensor) -> np.ndarray:
    """The scores of one input behind `relu2:dct@2`, without a corrector."""
    head, tail = net.bisect("relu2")
    with torch.inference_mode():
        exact = head(x).numpy()
        tensor = encode_activation(exact, "dct@2", transform=transform)
        back = decode_activation(tensor, shape=exact.shape[1:], transform=transform)
        return np.asarray(tail(torch.from_numpy(back)))[0]


def test_a_photo_as_a_transform_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, photos = decided_network(), smooth_photos(32)
    images = [(photo, None) for photo in photos]
    fits = fit_transforms(
        net, images, preprocessing=PREPROCESSING, split_points=["relu1", "relu2"], threads=1
    )
    correctors = fit_correctors(
        net,
        images,
        fits,
        preprocessing=PREPROCESSING,
        split_points=["relu1"],
        steps=40,
        threads=1,
    )
    measured = profile(
        net,
        images,
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        model="toy",
        split_points=["relu1", "relu2"],
        codecs=["uint8"],
        transforms=fits,
        correctors=correctors,
        threads=1,
    )
    built = package(
        net,
        profile=measured,
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        deployed=["relu1", "relu2"],
        transforms=tuple(fits.transforms.values()),
        correctors=correctors.correctors,
        out_dir=tmp_path / "store",
    )
    cut = Cut("relu1", "dct", 2)
    corrector = correctors.correctors["relu1"]
    assert corrector.active[2]
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for photo, file in zip(photos, files, strict=False):
        photo.save(file)
    x = torch.from_numpy(np.stack([im.preprocess(file, PREPROCESSING) for file in files]))
    head, tail = net.bisect("relu1")
    transform = fits.transforms["relu1"]
    offline, uncorrected, sizes = [], [], []
    with torch.inference_mode():
        for item in head(x).numpy():
            tensor = encode_activation(item[None], cut.coding, transform=transform)
            back = decode_activation(tensor, shape=item.shape, transform=transform)
            offline.append(tail(torch.from_numpy(corrector.correct(back, 2))).numpy()[0])
            uncorrected.append(tail(torch.from_numpy(back)).numpy()[0])
            sizes.append(tensor.nbytes)
    offline_plain = plain_scores(net, fits.transforms["relu2"], x[:1])
    key_file = tmp_path / "key.json"
    with TorchServe(
        model_store=tmp_path / "store",
        models=[built.archive.name],
        store=f"sqlite:///{tmp_path / 'store.db'}",
    ) as server:
        with SplitClient(
            server.inference_url,
            model="toy",
            head=built.bundle,
            token=server.token,
            threads=1,
            raw_scores=True,
        ) as client:
            predictions = [client.predict(file, cut=str(cut)) for file in files]
            plain = client.predict(files[0], cut="relu2:dct@2")
            together = client.predict_batch(files, cut=cut)
        key_file.write_text(json.dumps({"inference": {"key": server.token()}}))
        arguments = ["predict", *map(str, files), "--model", "toy", "--head", str(built.bundle)]
        arguments += ["--cut", str(cut), "--url", server.inference_url, "--json"]
        assert main([*arguments, "--token-file", str(key_file)]) == 0
    rows = json.loads(capsys.readouterr().out)
    for prediction, expected in zip([*predictions, *together], [*offline, *offline], strict=True):
        assert prediction.cut == cut
        assert prediction.class_id == int(np.argmax(expected))
        assert prediction.scores is not None
        np.testing.assert_allclose(prediction.scores, expected, rtol=0, atol=1e-4)
    assert not np.allclose(offline, uncorrected, rtol=0, atol=1e-3)
    # At relu2 there is no corrector, and the codec works as before.
    assert plain.cut == Cut("relu2", "dct", 2)
    assert plain.scores is not None
    np.testing.assert_allclose(plain.scores, offline_plain, rtol=0, atol=1e-4)
    assert [row["label"] for row in rows] == [CLASSES[int(np.argmax(each))] for each in offline]
    assert {row["cut"] for row in rows} == {str(cut)}
    assert max(sizes) < 256  # uint8 takes 256 bytes
