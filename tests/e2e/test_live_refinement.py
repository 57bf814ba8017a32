"""Refining cuts through the real server: the offline codec's answers, also where workers die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import requests
import torch
from toys.polling import until
from toys.refining import (
    CUT,
    coded,
    middle_margin,
    refining_profile,
    refining_transform,
)
from toys.serving import CLASSES, PREPROCESSING, toy_network

from isplit_plugin import image as im
from isplit_plugin.client import SplitClient
from isplit_plugin.schema import Prediction
from isplit_plugin.serving.launcher import TorchServe
from isplit_plugin.serving.packaging import Built, package
from isplit_plugin.wire import margins_of

PHOTOS = 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    coarse = np.random.default_rng(4).integers(0, 256, (PHOTOS, 4, 4, 3), dtype=np.uint8)
    files = [folder / f"{number}.png" for number in range(PHOTOS)]
    for file, pixels in zip(files, coarse, strict=True):
        PIL.Image.fromarray(pixels).resize((16, 16)).save(file)
    return files


@pytest.fixture(scope="module")
def expected(photos: list[Path]) -> tuple[float, np.ndarray, np.ndarray]:
    """The threshold, and the scores (N, C) of the coarse and of the fine quality, offline."""
    net = toy_network()
    transform = refining_transform(net)
    x = torch.from_numpy(np.stack([im.preprocess(file, PREPROCESSING) for file in photos]))
    threshold = middle_margin(net, transform, x)
    return threshold, coded(net, transform, x, 3), coded(net, transform, x, 7)


@pytest.fixture(scope="module")
def served(
    expected: tuple[float, np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TorchServe, Built]]:
    net = toy_network()
    folder = tmp_path_factory.mktemp("model_store")
    built = package(
        net,
        profile=refining_profile(net, expected[0]),
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        deployed=["relu1"],
        transforms=(refining_transform(net),),
        config={"isplit": {"refinement": {"audit": 0.0}}},
        out_dir=folder,
    )
    with TorchServe(
        model_store=folder,
        models=[built.archive.name],
        store=f"sqlite:///{folder / 'store.db'}",
    ) as server:
        yield server, built


def connect(served: tuple[TorchServe, Built], **options: Any) -> SplitClient:
    server, built = served
    return SplitClient(
        server.inference_url,
        model="toy",
        head=built.bundle,
        token=server.token,
        threads=1,
        raw_scores=True,
        cut=CUT,
        **options,
    )


def check(predictions: list[Prediction], expected: tuple[float, np.ndarray, np.ndarray]) -> None:
    threshold, coarse, fine = expected
    unsure = margins_of(coarse) <= threshold
    assert 0 < unsure.sum() < PHOTOS
    for number, prediction in enumerate(predictions):
        answer = fine[number] if unsure[number] else coarse[number]
        assert prediction.cut == CUT
        assert prediction.is_sure
        assert prediction.round_trips == (2 if unsure[number] else 1)
        assert prediction.class_id == int(answer.argmax())
        assert prediction.scores is not None
        np.testing.assert_allclose(prediction.scores, answer, rtol=0, atol=1e-4)


def test_refined_or_not_the_answers_are_the_offline_codecs(
    served: tuple[TorchServe, Built],
    photos: list[Path],
    expected: tuple[float, np.ndarray, np.ndarray],
) -> None:
    server, _ = served
    with connect(served) as client:
        check([client.predict(file) for file in photos], expected)
        check(client.predict_batch(photos), expected)
    unsure = int((margins_of(expected[1]) <= expected[0]).sum())

    def refined() -> float:
        """The counter, which the worker writes once a second."""
        text = requests.get(f"{server.metrics_url}/metrics", timeout=30).text
        rows = [row for row in text.splitlines() if row.startswith("isplit_refined_total{")]
        assert all('SplitPoint="relu1"' in row for row in rows)
        return sum(float(row.split()[-1]) for row in rows)

    until(lambda: refined() == 2 * unsure)


def test_a_worker_that_dies_between_the_two_requests_costs_nothing(
    served: tuple[TorchServe, Built],
    photos: list[Path],
    expected: tuple[float, np.ndarray, np.ndarray],
) -> None:
    server, _ = served
    killed: list[int] = []
    with connect(served, retries=100, deadline=200.0) as client:
        post = client._route.post

        def post_and_kill(*arguments: Any, **options: Any) -> Any:
            reply = post(*arguments, **options)
            if not killed:
                killed.extend(server.status("toy").pids)
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
            return reply

        client._route.post = post_and_kill  # type: ignore[method-assign]
        check(client.predict_batch(photos), expected)
    assert killed
    until(lambda: not {*server.status("toy").pids} & {*killed})
