"""The page of a simulation: a table, and how many photos were answered within which time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from ..simulation import ADAPTIVE, ORACLE, PolicyResult, Scenario, best_fixed
from .figures import styled
from .page import Page
from .style import INK, MUTED, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["latency_figure", "write_simulation"]

_MOST_CURVES: Final = len(SERIES)


def write_simulation(path: str | Path, scenario: Scenario, results: Sequence[PolicyResult]) -> Path:
    """Write the page and return its path. Raises ArtifactError if it cannot be written."""
    best = best_fixed(list(results))
    page = Page("What each cut costs on this link", scenario.describe())
    adaptive = next((result for result in results if result.policy == ADAPTIVE), None)
    facts: list[tuple[str | float, str]] = [
        (best.policy, "best fixed cut, chosen with hindsight"),
        (best.mean_ms, "its mean latency, ms"),
    ]
    if adaptive is not None:
        facts.append((adaptive.mean_ms, "mean latency of the adaptive client, ms"))
    page.facts(facts)
    page.figure(
        latency_figure(results, scenario.deadline_ms),
        alt="Share of photos that each policy answers within a time",
        caption="Latency counts from a photo's arrival, waiting for earlier photos included.",
    )
    page.section("All policies")
    page.table(
        [
            "policy",
            "mean ms",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "missed",
            "bytes",
            "agreement",
            "answered late by the device",
            "answered by exits",
            "server load",
        ],
        [
            [
                result.policy,
                result.mean_ms,
                result.p50_ms,
                result.p95_ms,
                result.p99_ms,
                result.missed,
                result.mean_bytes,
                result.agreement,
                result.hedged,
                result.exited,
                result.server_load,
            ]
            for result in results
        ],
        marked=[index for index, result in enumerate(results) if result.policy == ADAPTIVE],
    )
    if adaptive is not None:
        page.section("What the adaptive client chose")
        shares = sorted(adaptive.cuts.items(), key=lambda item: -item[1])
        page.table(["cut", "share of photos"], [[cut, share] for cut, share in shares])
    return page.write(path)


@styled
def latency_figure(results: Sequence[PolicyResult], deadline_ms: float | None = None) -> Figure:
    """The share of photos answered within each time, one curve for each policy.

    The adaptive client, the oracle and the fastest fixed cuts are drawn, six at most.
    """
    from matplotlib.figure import Figure as NewFigure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    always = [result for result in results if result.policy in (ADAPTIVE, ORACLE)]
    fixed = sorted(
        (result for result in results if result not in always), key=lambda result: result.mean_ms
    )
    drawn = [*always, *fixed[: _MOST_CURVES - len(always)]]
    curves = []
    figure = NewFigure(figsize=(8.0, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, result in enumerate(drawn):
        latencies = np.sort(np.maximum(result.latencies_ms, 1e-3))
        share = np.arange(1, len(latencies) + 1) / len(latencies)
        curves += axes.step(
            latencies,
            share,
            where="post",
            color=INK if result.policy == ADAPTIVE else SERIES[number],
            linewidth=2.0 if result.policy == ADAPTIVE else 1.2,
            linestyle=(0, (4, 2)) if result.policy == ORACLE else "solid",
        )
    names = [result.policy for result in drawn]
    if deadline_ms is not None and math.isfinite(deadline_ms):
        curves.append(axes.axvline(deadline_ms, color=MUTED, linewidth=1.0))
        names.append("deadline")
    axes.set_xscale("log")
    # The usual text of powers is TeX, which figures here do not read.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 1)
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("share of photos")
    # Given by hand: labels of curves that begin with an underscore, as names of split points may,
    # are left out otherwise.
    figure.legend(curves, names, loc="outside lower center", ncols=4)
    return figure
