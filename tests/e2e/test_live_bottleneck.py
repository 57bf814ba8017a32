"""A bottleneck in a real TorchServe, asked by a real client, learnt about by the real endpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from toys.bottleneck import CLASSES, PRE, toy_network
from toys.serving import profile_of

from isplit_plugin.bottleneck import Bottleneck, Photos, decoder_tail, encoder_head
from isplit_plugin.client import SplitClient, fetch_recommendation
from isplit_plugin.schema import Cut
from isplit_plugin.serving.launcher import TorchServe
from isplit_plugin.serving.packaging import package


def test_a_bottleneck_is_served_and_recommended(
    bottlenecks: list[Bottleneck], test_photos: Photos, tmp_path: Path
) -> None:
    net, bottleneck = toy_network(), bottlenecks[0]
    everything = test_photos.tensor(range(len(test_photos)))
    sizes = {("input", "jpeg@90"): 700.0, ("0", "uint8"): 2200.0}
    built = package(
        net,
        profile=profile_of(net, everything, preprocessing=PRE, classes=CLASSES, nbytes=sizes),
        preprocessing=PRE,
        classes=CLASSES,
        deployed=["0"],
        bottlenecks=bottlenecks,
        out_dir=tmp_path / "store",
    )
    photos = [test_photos.pixels(row) for row in range(len(test_photos))]
    with torch.inference_mode():
        expected = decoder_tail(net, bottleneck)(encoder_head(net, bottleneck)(everything)).numpy()
    with (
        TorchServe(
            model_store=tmp_path / "store",
            models=[built.archive.name, built.endpoint.name],
            store=f"sqlite:///{tmp_path / 'store.db'}",
        ) as server,
        SplitClient(
            server.inference_url,
            model="toy",
            head=built.bundle,
            token=server.token,
            threads=1,
            raw_scores=True,
        ) as client,
    ):
        found = client.predict_batch(photos, cut=Cut(bottleneck.deployed_name, "fp32"))
        small = client.predict_batch(photos, cut=Cut(bottleneck.deployed_name, "q4+rle+zstd"))
        tuned = client.predict(photos[0], cut=Cut(bottlenecks[1].deployed_name, "uint8"))
        answer = fetch_recommendation(server.inference_url, "toy", server.token, max_bytes=300)
        deepest = fetch_recommendation(server.inference_url, "toy", server.token, predictor="depth")
    scores = np.stack([p.scores for p in found if p.scores is not None])
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)
    assert [p.class_id for p in found] == expected.argmax(axis=1).tolist()
    assert tuned.split_point == bottlenecks[1].deployed_name
    assert small[0].bytes_sent < found[0].bytes_sent
    offered = {c.split_point for c in answer.cuts}
    assert {v.deployed_name for v in bottlenecks} <= offered
    assert answer.predictor == "cui"
    assert (deepest.predictor, deepest.best_candidate) == ("depth", "4")
    assert not {v.deployed_name for v in bottlenecks} & {p.split_point for p in answer.curve}
