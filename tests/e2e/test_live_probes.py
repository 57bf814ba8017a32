"""Probes through a real TorchServe: complete curves, and never a photo."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from PIL import Image
from toys.live_server import Live, Model
from toys.polling import until
from toys.serving import head_of, profile_of, tensor_request

from isplit_plugin import image
from isplit_plugin.client import HeadBundle, SplitClient
from isplit_plugin.device_tokens import issue, read_secret
from isplit_plugin.errors import ProbeError, from_json
from isplit_plugin.probing import ProbeClient
from isplit_plugin.schema import Preprocessing
from isplit_plugin.serving.launcher import TorchServe
from isplit_plugin.serving.packaging import package
from isplit_plugin.traffic import Store

# The voices of devices are counted by the hour.
pytestmark = pytest.mark.usefixtures("within_an_hour")

PREPROCESSING = Preprocessing(crop=(64, 64), resize=64)
CONFIG = {
    "isplit": {"sampling": 0.0, "probes": {"enabled": True, "cpu_budget": 1.0, "per_hour": 1000}}
}


@pytest.fixture(scope="module")
def probed(resnet: Model, model_store: Path) -> Model:
    """ResNet-18 once more, under another name and with probes on."""
    net = resnet.net
    classes = [f"class {i}" for i in range(10)]
    sizes = {("layer2", "fp32"): 4000.0}
    torch.manual_seed(6)
    profile = profile_of(
        net,
        torch.randn(8, 3, 64, 64),
        model="probed",
        preprocessing=PREPROCESSING,
        classes=classes,
        nbytes=sizes,
    )
    built = package(
        net,
        profile=profile,
        preprocessing=PREPROCESSING,
        classes=classes,
        deployed=["layer2"],
        config=CONFIG,
        pt2=True,
        include_output=False,
        out_dir=model_store,
    )
    return Model(net, profile, built)


@pytest.fixture(scope="module")
def server(
    probed: Model, toy: Model, model_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'store.db'}"
    names = ["probed.mar", "toy.mar", "isplit.mar"]
    with TorchServe(model_store=model_store, models=names, store=url, devices=True) as running:
        assert running.secret_path.stat().st_mode & 0o777 == 0o600
        yield Live(running, url, toy, probed)


def _photos(count: int) -> list[bytes]:
    """Smooth pictures as PNG files, so that the same bytes would be seen again if they were sent."""
    random = np.random.default_rng(4)
    found = []
    for _ in range(count):
        small = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((64, 64), Image.Resampling.BICUBIC).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def test_curves_of_probes_and_what_is_sent_for_them(server: Live, probed: Model) -> None:
    photos = _photos(8)
    x = torch.from_numpy(np.stack([image.preprocess(photo, PREPROCESSING) for photo in photos]))
    whole = probed.net.importance(x)
    opened = HeadBundle(probed.built.bundle)
    trust = opened.sha256
    opened.close()
    client = SplitClient(
        server.server.inference_url,
        model="probed",
        head=probed.built.bundle,
        token=server.server.token,
        runtime="torch",
        trust_pt2=trust,
        cut="layer2:fp32",
        device_token=issue(read_secret(server.server.secret_path), "camera-1", days=1),
    )
    bodies: list[bytes] = []
    post = client.transport.post

    def spy(path: str, body: bytes, headers: dict[str, str], **limits: Any) -> object:
        bodies.append(body)
        return post(path, body, headers, **limits)

    client.transport.post = spy  # type: ignore[method-assign,assignment]
    with ProbeClient(client) as device:
        assert device.predict(photos[0]).device == "ok"
        results = [device.probe(photo) for photo in photos]
    assert [r.class_id for r in results] == whole.target.tolist()
    with Store(server.store_url) as store:
        mean0 = store.mean0(probed.manifest.network_hash)
        view = store.view(probed.manifest.network_hash)
    (rows,) = view.importance
    assert rows.source == "probe"
    for row, class_id in enumerate(rows.class_ids):
        expected = whole.values[whole.target == class_id].mean(axis=0)
        np.testing.assert_allclose(
            mean0 + rows.sum1[row] / rows.weight[row], expected, rtol=1e-3, atol=1e-8
        )
    assert sum(r.requests for r in view.served) <= 1  # the one prediction; probes are no requests
    assert len(bodies) == 1 + 2 * len(photos)
    sizes = {len(body) for body in bodies[2::2]}
    assert (
        max(sizes) < 2000
    )  # a report is a ticket and one number for each of the points before the cut
    for photo, values in zip(photos, x.numpy(), strict=True):
        pixels = np.asarray(image.crop(photo, PREPROCESSING))
        pieces = [photo[60:100], pixels[20].tobytes(), np.moveaxis(pixels, 2, 0)[0, 20].tobytes()]
        pieces += [values[0, 20].tobytes(), values[0, 20].astype(np.float16).tobytes()]
        assert not any(piece in body for piece in pieces for body in bodies)


def test_probes_are_off_unless_turned_on(server: Live, toy: Model) -> None:
    values = head_of(toy.net, "relu1", torch.zeros(1, 3, 16, 16))
    request = tensor_request(values, "relu1", network_hash=toy.manifest.network_hash, probe=True)
    answer = server.send("toy", request)
    error = from_json(answer.json(), status=answer.status_code)
    assert (answer.status_code, type(error)) == (409, ProbeError)
    assert "probes.enabled" in error.message


def test_a_forged_report_is_refused_by_the_endpoint(server: Live) -> None:
    report = {"ticket": "e30.AAAA", "values": [0.1], "network": "x", "class": 1}
    answer = server.post(
        "predictions/isplit",
        json.dumps({"probe": report}),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 403
    assert answer.json()["code"] == "bad_ticket"
    assert answer.json()["details"] == {"reason": "forged"}


def test_a_token_that_does_not_hold_is_told_and_counted(server: Live, probed: Model) -> None:
    values = head_of(probed.net, "layer2", torch.zeros(1, 3, 64, 64))
    expired = issue(read_secret(server.server.secret_path), "camera-1", days=1, clock=lambda: 0.0)
    request = tensor_request(
        values, "layer2", network_hash=probed.manifest.network_hash, device_token=expired
    )
    assert server.predict("probed", request).device == "invalid: expired"
    of_model = '{ModelName="probed",ModelVersion="1.0",'

    def counted() -> bool:  # the frontend reads the worker's output on its own time
        text = requests.get(f"{server.server.metrics_url}/metrics", timeout=60).text
        return (
            f'isplit_device_tokens_refused_total{of_model}Code="expired",' in text
            and f'isplit_probes_total{of_model}SplitPoint="layer2",' in text
        )

    until(counted)
