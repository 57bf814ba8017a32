"""The promises of exits, simulated: drifts included, too many wrong answers in at most 7 % of runs,
or of classes where each keeps the promise by itself.
"""

from __future__ import annotations

import json

import pytest

from benchmarks.exit_runs import DRIFTS, Run, simulations
from benchmarks.release import BAD_SHARE, RUNS, rows_of, verdict
from isplit_plugin.exits import Promise


def check(runs: list[Run]) -> None:
    released = [run for run in runs if run.released]
    assert len(released) > 0.4 * len(runs)  # the promise is not kept by never answering
    assert sum(run.bad for run in runs) <= BAD_SHARE * len(runs)


def check_classes(runs: list[Run]) -> None:
    """As :func:`check`, for each class by itself."""
    classes = sum(run.classes for run in runs)
    assert sum(run.released for run in runs) > 0.4 * len(runs)
    assert sum(int(run.bad_classes.sum()) for run in runs) <= BAD_SHARE * classes
    assert sum(int(run.false_release.sum()) for run in runs) <= BAD_SHARE * classes


def runs_of(promise: Promise, number: int, *, photos: int) -> list[Run]:
    return [
        run
        for drift in (False, True)
        for run in simulations(number, drift=drift, photos=photos, promise=promise)
    ]


def test_exits_stay_within_the_tolerance_in_spite_of_drift() -> None:
    runs = runs_of("together", 25, photos=6000)
    check(runs)
    drifting = runs[25 :: len(DRIFTS)]  # the answers of all classes change
    for run in drifting:
        if run.released and run.drift_at < 4500:
            assert run.ended < 6000  # every such drift is noticed


def test_each_class_stays_within_the_tolerance_by_itself() -> None:
    runs = runs_of("each", 15, photos=6000)
    check_classes(runs)
    for run in runs:
        own = run.exits[run.exits > 0]
        assert len(own) <= int((run.released_at < 6000).sum())  # nobody answers without a release
    # A proof takes 459 answers of the class's own.
    assert min(run.shadow for run in runs) > 459
    bad = verdict("each", runs)[-1]
    assert bad["value"] == sum(int(run.bad_classes.sum()) for run in runs)
    assert json.dumps([*rows_of("each", runs), bad])


@pytest.mark.slow
@pytest.mark.parametrize("promise", ["together", "each"])
def test_the_promise_holds_over_a_thousand_runs(promise: Promise) -> None:
    runs = runs_of(promise, RUNS // 2, photos=10_000)
    if promise == "together":
        check(runs)
    else:
        check_classes(runs)
