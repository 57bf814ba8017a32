"""The parts of the benchmark `replay` that need no server."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from toys.client import recommendation

from benchmarks.replay import RTT_MS, Samples, SlowDevice, _rows
from isplit_plugin.schema import ON_DEVICE, Cut, FloatArray
from isplit_plugin.simulation import ConstantUplink

SPLIT = Cut("layer2", "dct", 3)


class Quick:
    """A runtime whose heads take 5 ms."""

    def has(self, split_point: str) -> bool:
        return split_point == "layer2"

    def run(self, split_point: str, x: FloatArray) -> FloatArray:
        time.sleep(0.005)
        return 2 * x


def test_a_slow_device_answers_the_same_later() -> None:
    device = SlowDevice(Quick(), slowdown=10.0)
    assert device.has("layer2")
    x = np.ones((1, 3), np.float32)
    started = time.perf_counter()
    np.testing.assert_array_equal(device.run("layer2", x), 2 * x)
    assert time.perf_counter() - started >= 0.05


def test_the_scenario_has_what_was_measured() -> None:
    samples = Samples(
        own_ms={SPLIT: [90, 110, 100], ON_DEVICE: [300, 310, 290]},
        server_ms={SPLIT: [20, 30, 25], ON_DEVICE: [0, 0, 0]},
        nbytes={SPLIT: [1000, 3000, 2000], ON_DEVICE: [0, 0, 0]},
        rest_ms=[5, 7, 6],
    )
    usual = recommendation().use
    advice = {
        SPLIT: replace(usual, cut=SPLIT, device_ms=50.0, nbytes=1700.0),
        ON_DEVICE: replace(usual, cut=ON_DEVICE, device_ms=150.0, nbytes=0.0),
    }
    scenario = samples.scenario(ConstantUplink(4.0), 10, advice)
    split, local = scenario.options
    assert (split.nbytes, split.device_ms, split.server_ms) == (2000, 100, 25)
    assert (local.nbytes, local.device_ms, local.server_ms) == (0, 300, 0)
    assert scenario.rtt_ms == RTT_MS + 6
    assert [option.device_ms for option in scenario.advised] == [50, 150]
    assert [option.nbytes for option in scenario.advised] == [1700, 0]
    assert scenario.byte_noise == pytest.approx(0.45, rel=0.02)


def test_medians_of_runs_are_compared_with_medians_of_simulations() -> None:
    p50, p95 = _rows("here", [[100.0] * 9, [110.0] * 9, [500.0] * 9], [[100.0] * 9] * 3)
    assert (p50["value"], p50["rival_value"]) == (110, 100)
    assert p95["ratio"] == pytest.approx(1.1)
    assert p95["runs"] == [100, 110, 500]
