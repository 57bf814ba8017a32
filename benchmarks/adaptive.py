"""The adaptive decision on recorded and made-up links, against fixed cuts and an oracle; its cost.

Everything but the last rows is simulated: the costs of the cuts are those of EfficientNet-Lite0 on
a phone's CPU, rounded, and the devices are 1, 4 and 16 times slower.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np

from isplit_plugin.adaptive import FixedLink, LinkFilter, Option, decide
from isplit_plugin.schema import Cut
from isplit_plugin.simulation import (
    ADAPTIVE,
    ORACLE,
    PolicyResult,
    Scenario,
    TraceUplink,
    Uplink,
    best_fixed,
    compare,
    swinging_trace,
)

from .harness import Row, against, interleaved, row

VARIABLE: Final = "ISPLIT_TRACES"
"""A folder of traces in Mahimahi's format, with the ending `.up`."""
SLOWDOWNS: Final = (1, 4, 16)
ALWAYS: Final = {"photo": "input", "local": "output", "split": "_blocks.5"}


def run(quick: bool = False) -> list[Row]:
    """Mean latency on every link and device against the best fixed cut, the oracle, and three
    habits; the cost of a decision; and the error of the estimate on constant links.
    """
    photos = 60 if quick else 400
    rows: list[Row] = []
    habits: dict[str, float] = dict.fromkeys(ALWAYS, 0.0)
    for uplink in _uplinks(quick):
        for slowdown in SLOWDOWNS:
            scenario = Scenario(options(slowdown), uplink, rtt_ms=40, rate=1.0, photos=photos)
            results = compare(scenario)
            rows += _against_rivals(f"{uplink.describe()}, device x{slowdown}", results)
            _remember_habits(habits, results)
            strict = Scenario(
                options(slowdown), uplink, rtt_ms=40, rate=1.0, photos=photos, deadline_ms=500.0
            )
            rows += _deadlines(f"{uplink.describe()}, device x{slowdown}", compare(strict))
    for name, ratio in habits.items():
        rows.append(
            row(f"'always {name}' is slower than adaptive, at most", ratio, "x", expected=">= 1.5")
        )
    return [*rows, *_cost(quick), *_estimates()]


def options(slowdown: float) -> tuple[Option, ...]:
    """The cuts of the simulated network on a device that is ``slowdown`` times slower."""
    return (
        Option(Cut("input", "jpeg", 90), 14_000, 0.5 * slowdown, 42, agreement=0.99),
        Option(Cut("input", "avif", 80), 9_500, 8 * slowdown, 44, agreement=0.99),
        Option(Cut("_blocks.4", "dct", 3), 6_000, 13 * slowdown, 30, agreement=0.99),
        Option(Cut("_blocks.5", "dct", 3), 4_100, 15 * slowdown, 28, agreement=0.99),
        Option(Cut("output", "none"), 0, 40 * slowdown, 0, agreement=1.0),
    )


def _uplinks(quick: bool) -> list[Uplink]:
    folder = os.environ.get(VARIABLE)
    uplinks: list[Uplink] = []
    if folder is not None:
        uplinks += [TraceUplink.load(path) for path in sorted(Path(folder).glob("*.up"))]
    uplinks += [swinging_trace(seed, mean_mbps=mbps) for seed, mbps in ((1, 1.0), (2, 4.0))]
    return uplinks[: 1 if quick else None]


def _against_rivals(where: str, results: list[PolicyResult]) -> list[Row]:
    by_name = {result.policy: result for result in results}
    adaptive, oracle, best = by_name[ADAPTIVE], by_name[ORACLE], best_fixed(results)
    rows = []
    for rival, value, expected in (
        (f"best fixed: {best.policy}", best.mean_ms, "<= 1.05"),
        ("oracle", oracle.mean_ms, "<= 1.15"),
    ):
        rows.append(
            row(
                f"{where}: mean latency",
                adaptive.mean_ms,
                "ms",
                p95_ms=adaptive.p95_ms,
                rival=rival,
                rival_value=value,
                ratio=adaptive.mean_ms / value,
                expected=expected,
            )
        )
    return rows


def _deadlines(where: str, results: list[PolicyResult]) -> list[Row]:
    by_name = {result.policy: result for result in results}
    best = best_fixed(results)
    return [
        row(
            f"{where}: missed 500 ms, adaptive",
            by_name[ADAPTIVE].missed,
            "share",
            rival=f"best fixed {best.policy} {best.missed:.3f}, oracle {by_name[ORACLE].missed:.3f}",
        )
    ]


def _remember_habits(habits: dict[str, float], results: list[PolicyResult]) -> None:
    """The largest ratio of each habit's mean latency to the adaptive client's."""
    adaptive = next(result for result in results if result.policy == ADAPTIVE)
    for name, split_point in ALWAYS.items():
        means = [r.mean_ms for r in results if r.policy.startswith(f"{split_point}:")]
        if means:
            habits[name] = max(habits[name], min(means) / adaptive.mean_ms)


def _cost(quick: bool) -> list[Row]:
    link = LinkFilter()
    many = [Option(Cut(f"layer{n}", "dct", 3), 4_000.0 + n, 50.0 + n, 20.0) for n in range(12)]
    state = {"at_s": 0.0}

    def observe() -> None:
        state["at_s"] += 0.1
        link.observe(4_000, 40.0, state["at_s"])

    times = interleaved(
        {
            "decision": lambda: decide(many, link),
            "decision with deadline": lambda: decide(many, link, deadline_ms=100),
            "observation": observe,
            "nothing": lambda: None,
        },
        rounds=50 if quick else 1000,
        warmup=20,
    )
    expected = {"decision": "< 0.3 ms", "decision with deadline": "< 0.3 ms", "observation": ""}
    return [
        against(f"cost of a {name}, 12 cuts", times, name, "nothing", expected=text)
        for name, text in expected.items()
    ]


def _estimates() -> list[Row]:
    rows = []
    for mbps in (0.5, 2.0, 8.0, 20.0, 50.0):
        random = np.random.default_rng(5)
        link, truth = LinkFilter(), FixedLink(mbps, 40.0)
        for number in range(40):
            nbytes = (4_000.0, 14_000.0)[number % 2]
            ms = truth.expected_ms(np.array([nbytes]))[0] * np.exp(0.1 * random.standard_normal())
            link.observe(nbytes, float(ms), number / 2)
        sizes = np.array([4_000.0, 9_000.0, 14_000.0])
        error = np.abs(link.expected_ms(sizes) / truth.expected_ms(sizes) - 1).max()
        estimate = link.estimate()
        rows.append(
            row(
                f"constant {mbps:g} Mbit/s: worst error of expected times",
                float(error),
                "share",
                bandwidth_mbps=estimate.bandwidth_mbps,
                bandwidth_known=estimate.bandwidth_known,
            )
        )
    return rows
