"""Probes at the codec that needs a transform."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from toys.probing import bridge, client_of
from toys.serving import CLASSES, PREPROCESSING, Worker, toy_photos, unpack
from toys.transforms import toy_transform

from isplit_plugin.network import CapturedNetwork
from isplit_plugin.probing import ProbeClient
from isplit_plugin.profile import CutMeasurement, Profile
from isplit_plugin.schema import Cut
from isplit_plugin.serving.packaging import package
from isplit_plugin.traffic import Store

CONFIG = {"isplit": {"sampling": 0.0, "probes": {"enabled": True, "cpu_budget": 1.0, "rate": 1.0}}}


def test_a_probe_at_the_transform_codec(
    net: CapturedNetwork, profile: Profile, secret: Path, store_url: str, tmp_path: Path
) -> None:
    point = net.split_point("relu1")
    transform = toy_transform(
        point.shape,
        point.channel_axis,
        network_hash=net.network_hash(PREPROCESSING),
        split_point="relu1",
        step=0.05,
        low=0.0,
    )
    cut = Cut("relu1", "dct", 4)
    measured = CutMeasurement(cut, 90.0, 0.1, 0.1, profile.count, profile.count)
    built = package(
        net,
        profile=replace(profile, measurements=(*profile.measurements, measured)),
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        deployed=["relu1"],
        transforms=[transform],
        pt2=True,
        include_output=False,
        config=CONFIG,
        out_dir=tmp_path / "model_store",
    )
    with Store(store_url) as store:
        store.put_network(built.manifest, profile)
    tail = Worker(unpack(built.archive, tmp_path / "tail"))
    endpoint = Worker(unpack(built.endpoint, tmp_path / "endpoint"))
    try:
        with bridge(tail, endpoint) as served:
            client = client_of(served.url, built.bundle, device="d1", secret=secret, cut=cut)
            with ProbeClient(client) as device:
                result = device.probe(toy_photos(1)[0])
    finally:
        tail.close()
        endpoint.close()
    assert result.class_id in range(len(CLASSES))
    with Store(store_url) as store:
        (rows,) = store.view(built.manifest.network_hash).importance
    assert rows.source == "probe"
    assert np.isfinite(rows.sum1).all()
