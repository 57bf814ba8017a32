"""The server of a simulation: batches and workers, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from isplit_plugin.adaptive import Option
from isplit_plugin.errors import QueryError
from isplit_plugin.schema import Cut
from isplit_plugin.simulation import ConstantUplink, Device, Fixed, Policy, Run, Scenario, simulate

REQUEST = Option(Cut("input", "jpeg"), 0, 0, 50, agreement=1.0)
LATER = Option(Cut("input", "webp"), 0, 20, 30, agreement=1.0)
AT_ONCE = Scenario(
    (REQUEST, LATER),
    ConstantUplink(1e6),
    rtt_ms=0,
    rate=1e6,
    devices=4,
    photos=1,
    noise=0.0,
)
"""Four devices whose only photos arrive at the same time, within a thousandth of a millisecond."""


def latencies(scenario: Scenario, late: int = 0) -> list[float]:
    """Of each device; ``late`` of them need 20 ms before they send."""

    def policy(device: Device) -> Policy:
        return Fixed(LATER.cut if device.number < late else REQUEST.cut)

    photos = simulate(scenario, policy).photos
    return sorted(round(photo.latency_ms, 1) for photo in photos)


def test_one_worker_takes_one_after_the_other() -> None:
    assert latencies(AT_ONCE) == [50, 100, 150, 200]
    assert latencies(replace(AT_ONCE, workers=2)) == [50, 50, 100, 100]


def test_a_batch_on_one_thread_takes_as_long_as_its_parts() -> None:
    batches = replace(AT_ONCE, batch_size=4, batch_delay_ms=5)
    assert latencies(batches) == [200, 200, 200, 200]


def test_a_batch_on_an_accelerator_takes_as_long_as_one() -> None:
    free = replace(AT_ONCE, batch_size=4, batch_delay_ms=5, batch_cost=0.0)
    assert latencies(free) == [50, 50, 50, 50]
    # Pairs share a worker.
    assert latencies(replace(free, batch_size=2)) == [50, 50, 100, 100]
    # A further request takes a tenth of its time alone.
    assert latencies(replace(free, batch_cost=0.1)) == [65, 65, 65, 65]


def test_a_batch_waits_for_its_delay_and_no_longer() -> None:
    waiting = replace(AT_ONCE, batch_size=3, batch_delay_ms=10, batch_cost=0.0, devices=2)
    # The first one starts alone after 10 ms. The second one comes after 20, is taken after 60,
    # and waits 10 ms for others.
    assert latencies(waiting, late=1) == [60, 100]
    patient = replace(waiting, batch_delay_ms=25)
    # Both start when the delay is over, and take 50 ms.
    assert latencies(patient, late=1) == [75, 75]
    # A full batch does not wait.
    full = replace(patient, batch_size=2)
    assert latencies(full, late=1) == [70, 70]


def test_the_load_counts_the_time_of_workers() -> None:
    def run(scenario: Scenario) -> Run:
        return simulate(scenario, lambda _device: Fixed(REQUEST.cut))

    assert run(AT_ONCE).busy_ms == pytest.approx(200)
    assert run(replace(AT_ONCE, batch_size=4, batch_cost=0.0)).busy_ms in (
        pytest.approx(50),
        pytest.approx(100),
    )


def test_batches_carry_a_load_that_one_by_one_does_not() -> None:
    """120 requests a second of 20 ms: 2.4 workers' work for one."""
    option = replace(REQUEST, server_ms=20)
    busy = Scenario(
        (option,), ConstantUplink(1e6), rtt_ms=0, rate=4, devices=30, photos=40, noise=0.0
    )
    means = {
        size: float(
            np.mean(
                [
                    photo.latency_ms
                    for photo in simulate(
                        replace(busy, batch_size=size, batch_cost=0.1),
                        lambda _device: Fixed(option.cut),
                    ).photos
                ]
            )
        )
        for size in (1, 8)
    }
    assert means[8] < 100 < means[1]


@pytest.mark.parametrize(
    ("field", "value"), [("batch_size", 0), ("batch_delay_ms", -1.0), ("batch_cost", 1.5)]
)
def test_values_out_of_range(field: str, value: float) -> None:
    with pytest.raises(QueryError, match=f"{field}: expected"):
        replace(AT_ONCE, **{field: value})  # type: ignore[arg-type]
