"""The demo's HTML report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..profile import Profile
from ..report import Line, Page, curve_figure, profile_page
from ..schema import Recommendation
from .served import by_cut, correct

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .story import Phase


def write(
    path: Path,
    measured: Profile,
    *,
    jpeg: Mapping[str, float],
    before: Recommendation,
    phases: Sequence[Phase],
    link: Mapping[str, float],
    changed: Sequence[str],
    scenarios: tuple[Sequence[str], Sequence[Sequence[str]]],
) -> Path:
    """Write the page: what was sent, what came back, how the curves moved; then the profile and the answers."""
    page = Page(
        "isplit-plugin demo: where to cut EfficientNet-Lite0",
        "Measured in one run on this machine: real photos, a real TorchServe, the head in a process of its own",
    )
    page.section("What sending the photo costs")
    page.table(("photo", "mean bytes"), [(name, round(size)) for name, size in jpeg.items()])
    for phase in phases:
        _phase(page, phase)
    page.section("What the traffic changed")
    page.text(*changed)
    page.figure(
        _curves(measured, before, phases),
        alt="Class-conditional CUI over the block outputs: the profile and each phase",
        caption="Stars: local maxima, the rule's places for a bottleneck. Values before a cut come from whole-image "
        "requests and the profile, the others from split traffic too.",
    )
    page.section("What to use, by uplink and device")
    page.table(*scenarios, caption="For the live mix, 30 ms round trip; predicted latency.")
    page.text(
        f"The other recommendations here are for {link['bandwidth_mbps']:g} Mbit/s up, {link['rtt_ms']:g} ms round "
        f"trip and a device {link['device_slowdown']:g} times slower than the machine that made the profile."
    )
    answers = [before, *(phase.advice for phase in phases)]
    return profile_page(measured, recommendations=answers, page=page).write(path)


def _phase(page: Page, phase: Phase) -> None:
    hits = correct(phase.rows)
    page.section(f"Traffic: {phase.name}")
    page.facts(
        [
            (len(phase.rows), "photos classified"),
            (f"{hits / max(1, len(phase.rows)):.0%}", "correct"),
            (str(phase.advice.cut), "recommended afterwards"),
            (phase.advice.best_candidate, "best place for a bottleneck"),
        ]
    )
    rows = [
        (
            *(s.cut, s.photos, round(s.bytes_sent)),
            *(s.head_ms, s.encode_ms, s.round_trip_ms, s.tail_ms),
            s.correct / s.photos,
        )
        for s in by_cut(phase.rows)
    ]
    header = (
        "cut",
        "photos",
        "bytes sent",
        "head ms",
        "encode ms",
        "round trip ms",
        "tail ms",
    )
    page.table(
        (*header, "share correct"),
        rows,
        caption="Means of bytes, medians of times; loopback, no slow link.",
    )


def _curves(measured: Profile, before: Recommendation, phases: Sequence[Phase]) -> Figure:
    points = [p for p in measured.split_points if p.is_block]
    lines = []
    for name, advice in (
        ("before traffic", before),
        *((phase.name, phase.advice) for phase in phases),
    ):
        found = {point.split_point: point for point in advice.curve}
        lines.append(
            Line(
                name,
                np.asarray([found[p.name].cui for p in points], dtype=np.float64),
                np.asarray([found[p.name].standard_error for p in points], dtype=np.float64),
            )
        )
    return curve_figure(points, lines)
