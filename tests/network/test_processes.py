"""Sharing a calibration set: who measures what, and putting it together again.

With real processes: tests/cli/test_profile_processes.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.serving import PREPROCESSING, toy_network, toy_photos

from isplit_plugin.errors import DataError
from isplit_plugin.network import ONE_PROCESS, CapturedNetwork, Processes, launched_processes
from isplit_plugin.network.calibration_pass import CalibrationPass
from isplit_plugin.network.merging import _packed, merge

PHOTOS = 21
BATCH = 4


@given(st.integers(1, 7), st.integers(0, 200), st.integers(1, 20))
def test_every_photo_is_measured_once(count: int, total: int, size: int) -> None:
    processes = [Processes(rank, count) for rank in range(count)]
    assert sum(process.own_photos(total, size) for process in processes) == total
    assert [sum(process.owns(piece) for process in processes) for piece in range(50)] == [1] * 50


@pytest.fixture(scope="module")
def net() -> CapturedNetwork:
    return toy_network()


@dataclass(frozen=True)
class _First(Processes):
    """The first of two processes; the other has handed over its share."""

    count: int = 2
    other: bytes = b""

    def gather(self, data: bytes, to: int = 0) -> list[bytes]:
        assert to == 0
        return [data, self.other]


def measured(net: CapturedNetwork, processes: Processes) -> CalibrationPass:
    calibration = CalibrationPass(
        net,
        preprocessing=PREPROCESSING,
        target="predicted",
        split_points=["relu1"],
        codecs=["uint8", "q2c+zstd"],
        photos=["jpeg@90"],
        losses=[0.3],
    )
    images = [(photo, number % 5) for number, photo in enumerate(toy_photos(PHOTOS))]
    calibration.run([*images, (b"no image", None)], BATCH, lambda _done: None, processes)
    return calibration


def test_two_shares_make_the_whole(net: CapturedNetwork) -> None:
    whole = measured(net, ONE_PROCESS)
    second = measured(net, Processes(1, 2))
    first = measured(net, Processes(0, 2))
    assert (len(first.top), len(second.top)) == (12, 9)
    merge(first, _First(other=_packed(second)))
    assert first.numbers == whole.numbers == list(range(PHOTOS))
    assert (first.top, first.target, first.labels) == (whole.top, whole.target, whole.labels)
    assert first.skipped.images == whole.skipped.images
    np.testing.assert_array_equal(
        np.concatenate(first.importance), np.concatenate(whole.importance)
    )
    meters: tuple[tuple[Any, Any], ...] = (
        (first.meter, whole.meter),
        (first.photo_meter, whole.photo_meter),
        *zip(first.loss_meters, whole.loss_meters, strict=True),
    )
    for merged, alone in meters:
        assert list(merged.samples) == list(alone.samples)
        for cut, samples in alone.samples.items():
            assert list(merged.samples[cut].agrees) == pytest.approx(samples.agrees, nan_ok=True)
            assert list(merged.samples[cut].nbytes) == pytest.approx(samples.nbytes, nan_ok=True)
    timed = np.isfinite(first.meter.samples[next(iter(first.meter.samples))].encode_ms)
    assert timed.sum() == 12  # times are the first process's alone


def test_alone_nothing_is_agreed_and_errors_stay_as_they_are() -> None:
    with launched_processes() as processes:
        assert processes is ONE_PROCESS
        with processes.agreed() as facts:
            facts.append("a network")
        with pytest.raises(DataError, match=r"^broken$"), processes.agreed():
            raise DataError("broken")
