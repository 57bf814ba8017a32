"""The promise of exits, simulated: drifts included, too many wrong answers in at most 7 % of runs."""

from __future__ import annotations

import pytest

from benchmarks.release import BAD_RUNS, RUNS, Run, simulations


def check(runs: list[Run]) -> None:
    released = [run for run in runs if run.bin is not None]
    assert len(released) > 0.4 * len(runs)  # the promise is not kept by never answering
    assert sum(run.bad for run in runs) <= BAD_RUNS * len(runs)


def test_exits_stay_within_the_tolerance_in_spite_of_drift() -> None:
    runs = [
        run
        for drift in (False, True)
        for run in simulations(25, drift=drift, photos=6000)
    ]  # fmt: skip
    check(runs)
    for run in runs:
        if run.bin is not None and run.drift_at < 4500 and not run.false_alarm:
            assert run.ended < 6000  # every drift is noticed


@pytest.mark.slow
def test_the_promise_holds_over_a_thousand_runs() -> None:
    runs = [
        run for drift in (False, True) for run in simulations(RUNS // 2, drift=drift, photos=10_000)
    ]
    check(runs)
