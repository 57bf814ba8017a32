"""What the benchmarks share: medians of interleaved runs, and rows that people and programs can
read.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]


def interleaved(
    jobs: dict[str, Callable[[], object]], *, rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Milliseconds of each job in each round.

    Jobs take turns, so that a noisy minute hits all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(warmup + rounds):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            if number >= warmup:
                times[name].append((time.perf_counter() - started) * 1e3)
    return times


def row(name: str, value: float, unit: str, **more: Any) -> Row:
    """One measured value; ``more``: rival, ratio, spread, expected, ..."""
    return {"name": name, "value": value, "unit": unit, **more}


def against(
    name: str, times: dict[str, list[float]], ours: str, rival: str, *, expected: str = ""
) -> Row:
    """The median of ours, and how many times the rival's median it is, with the quartiles of the
    paired ratios.
    """
    ratios = sorted(a / b for a, b in zip(times[ours], times[rival], strict=True))
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return row(
        name,
        statistics.median(times[ours]),
        "ms",
        rival=rival,
        rival_value=statistics.median(times[rival]),
        ratio=statistics.median(ratios),
        ratio_quartiles=[quartiles[0], quartiles[2]],
        rounds=len(ratios),
        expected=expected,
    )


def table(rows: Sequence[Row]) -> str:
    """The rows for people."""
    header = ("what", "value", "unit", "quiet", "x", "of", "expected")
    cells = [
        (
            str(r["name"]),
            f"{r['value']:,.4g}",
            str(r["unit"]),
            f"{r['quiet_ms']:,.3g}" if "quiet_ms" in r else "",
            f"{r['ratio']:.3g}" if "ratio" in r else "",
            str(r.get("rival", "")),
            str(r.get("expected", "")),
        )
        for r in rows
    ]
    widths = [max(len(line[i]) for line in [header, *cells]) for i in range(len(header))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
        for line in [header, *cells]
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
