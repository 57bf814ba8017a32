"""Heads timed as devices run them, with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import nn

from isplit_plugin.errors import CaptureError
from isplit_plugin.network import CapturedNetwork, capture, device_times
from isplit_plugin.network.device_times import device_head_ms

ESTIMATES = {"input": 0.0, "0": 2.0, "1": 3.0, "2": 6.0, "3": 8.0, "output": 10.0}


@pytest.fixture(scope="module")
def net() -> CapturedNetwork:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8) for _ in range(4)]
    return capture(nn.Sequential(*layers), torch.zeros(1, 8))


def _with_times(monkeypatch: pytest.MonkeyPatch, *times: float) -> None:
    """Heads take these milliseconds, in turn."""
    clock: Iterator[float] = cycle(times)
    monkeypatch.setattr(device_times, "_run_ms", lambda *_: next(clock))


def test_real_heads_are_timed(net: CapturedNetwork) -> None:
    names = [point.name for point in net.split_points]
    estimates = {"input": 0.0, "output": 4.0} | {n: i + 1.0 for i, n in enumerate(names)}
    ms = device_head_ms(net, names[:2], estimates, rounds=3)
    assert ms is not None
    assert set(ms) == set(estimates)
    assert ms["input"] == 0.0
    assert 0 < ms["output"] < 1000
    assert all(0 <= ms[name] <= ms["output"] for name in names)


def test_between_timed_heads_the_times_follow_the_estimates(
    net: CapturedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The head at 1 and the whole network: 0.4 of it where the other engine takes 0.3.
    _with_times(monkeypatch, 2.0, 5.0)
    monkeypatch.setattr(device_times, "_sessions", lambda _, names, __: dict.fromkeys(names))
    ms = device_head_ms(net, ["1"], ESTIMATES)
    assert ms is not None
    assert ms["output"] == 5.0
    assert ms["1"] == pytest.approx(2.0)
    assert ms["0"] == pytest.approx(2.0 * 2 / 3)
    assert ms["2"] == pytest.approx(2.0 + 3.0 * 3 / 7)


def test_a_longer_head_takes_no_less_whatever_the_clock_says(
    net: CapturedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_times(monkeypatch, 4.0, 3.0, 7.0, 5.0)  # at 0, 1, 3 and of the whole network
    monkeypatch.setattr(device_times, "_sessions", lambda _, names, __: dict.fromkeys(names))
    ms = device_head_ms(net, ["0", "1", "3"], ESTIMATES)
    assert ms is not None
    assert [ms[name] for name in ("0", "1", "3", "output")] == [4.0, 4.0, 5.0, 5.0]


def test_where_no_head_can_be_exported_there_are_no_times(
    net: CapturedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise CaptureError("no operator of this name in ONNX")

    monkeypatch.setattr(device_times, "export_head", refuse)
    assert device_head_ms(net, ["1"], ESTIMATES) is None
