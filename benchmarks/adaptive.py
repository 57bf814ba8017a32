"""The adaptive decision on recorded and made-up links, against fixed cuts and an oracle; its cost.

Everything but the last rows is simulated: the costs of the cuts are those of EfficientNet-Lite0 on
a phone's CPU, rounded, and the devices are 1, 4 and 16 times slower.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from isplit_plugin.adaptive import EXPLORATION, FixedLink, LinkFilter, Option, decide
from isplit_plugin.schema import Cut
from isplit_plugin.simulation import (
    ADAPTIVE,
    ORACLE,
    ConstantUplink,
    PolicyResult,
    Scenario,
    TraceUplink,
    Uplink,
    adaptive_policy,
    best_fixed,
    compare,
    simulate,
    swinging_trace,
)

from .harness import Row, against, interleaved, row

VARIABLE: Final = "ISPLIT_TRACES"
"""A folder of traces in Mahimahi's format, with the ending `.up`."""
SLOWDOWNS: Final = (1, 4, 16)
CONSTANT_MBPS: Final = (0.3, 1.0, 4.0)
"""On a link that never changes, nothing but a try makes a device take another cut."""
ALWAYS: Final = {"photo": "input", "local": "output", "split": "_blocks.5"}


def run(quick: bool = False) -> list[Row]:
    """Mean latency on every link and device against the best fixed cut, the oracle, and three
    habits; what tries cost and bring; the cost of a decision; the error of the estimate on constant
    links, and how many requests it takes to follow a step.
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
    return [*rows, *_tries(quick), *_cost(quick), *_estimates(), *_steps()]


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


def _tries(quick: bool) -> list[Row]:
    """Mean latency with and without tries, by that of a device which is advised its true times."""
    seeds = range(1 if quick else 3)
    uplinks: list[Uplink] = [*_uplinks(quick), *(ConstantUplink(mbps) for mbps in CONSTANT_MBPS)]
    ratios: dict[tuple[bool, float], list[float]] = {}
    for uplink in uplinks:
        for slowdown in SLOWDOWNS[1:]:
            for seed in seeds:
                right = _mean_ms(uplink, slowdown, seed, wrong=False, exploration=0.0)
                for wrong in (False, True):
                    for exploration in (0.0, EXPLORATION):
                        ms = _mean_ms(uplink, slowdown, seed, wrong=wrong, exploration=exploration)
                        ratios.setdefault((wrong, exploration), []).append(ms / right)
    return [
        row(
            f"own times {'wrong by up to 3 times' if wrong else 'right'} at the start, "
            f"{'tries' if exploration else 'no tries'}: mean latency",
            float(np.mean(ratios[wrong, exploration])),
            "of right, no tries",
            worst=max(ratios[wrong, exploration]),
            rival=f"worst {max(ratios[wrong, exploration]):.2f}",
            expected="" if wrong else "<= 1.02",
        )
        for wrong, exploration in ratios
    ]


def _mean_ms(
    uplink: Uplink, slowdown: float, seed: int, *, wrong: bool, exploration: float
) -> float:
    """Mean latency of 300 photos of a device that is advised true or wrong times."""
    random = np.random.default_rng([seed, int(slowdown)])
    true = options(slowdown)
    factors = np.exp(random.uniform(-math.log(3), math.log(3), len(true))) if wrong else None
    advised = tuple(
        replace(option, device_ms=option.device_ms * (1.0 if factors is None else factors[index]))
        for index, option in enumerate(true)
    )
    scenario = Scenario(
        true,
        uplink,
        rtt_ms=40,
        rate=1.0,
        photos=300,
        seed=seed,
        advised=advised,
        exploration=exploration,
    )
    photos = simulate(scenario, adaptive_policy(scenario)).photos
    return float(np.mean([photo.latency_ms for photo in photos]))


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


def _steps() -> list[Row]:
    """Requests after a step of the link until expected times are within 30 % of the truth."""
    sizes = np.array([4_000.0, 14_000.0])
    rows = []
    for before, after in ((20.0, 0.5), (0.5, 20.0), (4.0, 1.0), (1.0, 4.0)):
        needed = []
        for seed in range(9):
            random = np.random.default_rng(seed)
            link = LinkFilter()
            truth = FixedLink(after, 40.0).expected_ms(sizes)
            count = 0
            for number in range(100):
                mbps = before if number < 40 else after
                nbytes = sizes[number % 2]
                ms = FixedLink(mbps, 40.0).expected_ms(np.array([nbytes]))[0]
                link.observe(
                    float(nbytes), float(ms * np.exp(0.1 * random.standard_normal())), number / 2
                )
                if number >= 40:
                    count += 1
                    if np.abs(link.expected_ms(sizes) / truth - 1).max() < 0.3:
                        break
            needed.append(count)
        rows.append(
            row(
                f"step from {before:g} to {after:g} Mbit/s: requests until within 30 %",
                float(np.median(needed)),
                "requests",
                worst=max(needed),
            )
        )
    return rows
