"""The demo's HTML report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..profile import Profile
from ..report import Line, Page, curve_figure, profile_page
from ..schema import Recommendation
from .exits import Exits
from .phase import Phase, Scenarios
from .served import by_cut, correct
from .swinging_link import SwingingLink

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write(
    path: Path,
    measured: Profile,
    *,
    sizes: Mapping[str, float],
    before: Recommendation,
    phases: Sequence[Phase],
    sentences: Sequence[str],
    link: Mapping[str, float],
    scenarios: Scenarios,
    exits: Exits,
    swinging: SwingingLink,
) -> Path:
    """Write the report and return its path.

    Parameters:
        sizes: mean bytes of a photo by its form.
        before: the recommendation before any traffic.
        sentences: what the traffic changed.
        link: the constraints that all recommendations but the scenarios are for.
        exits: what came of the exit.
        swinging: what each choice costs on a link that swings.
    """
    page = Page(
        "isplit-plugin demo: where to cut EfficientNet-Lite0",
        "Measured in one run on this machine: real photos, a real TorchServe, the head in a "
        "process of its own",
    )
    page.section("What sending the photo costs")
    page.table(("photo", "mean bytes"), [(name, round(size)) for name, size in sizes.items()])
    for phase in phases:
        _add_phase(page, phase)
    page.section("What the traffic changed")
    page.text(*sentences)
    page.figure(
        _curves(measured, before, phases),
        alt="Class-conditional CUI over the block outputs: the profile and each phase",
        caption="Stars: local maxima, which are the candidates for a bottleneck. Values before a "
        "cut come from whole-image requests and the profile, the others from split traffic too.",
    )
    page.section("What to use, by uplink and device")
    caption = "For the live mix, 30 ms round trip; predicted latency."
    page.table(scenarios.header, scenarios.rows, caption=caption)
    page.text(
        f"The other recommendations here are for {link['bandwidth_mbps']:g} Mbit/s up, "
        f"{link['rtt_ms']:g} ms round trip and a device {link['device_slowdown']:g} times slower "
        "than the machine that made the profile."
    )
    exits.add_to(page)
    swinging.add_to(page)
    answers = [before, *(phase.advice for phase in phases)]
    return profile_page(measured, recommendations=answers, page=page).write(path)


def _add_phase(page: Page, phase: Phase) -> None:
    page.section(f"Traffic: {phase.name}")
    page.facts(
        [
            (len(phase.rows), "photos classified"),
            (f"{correct(phase.rows) / max(1, len(phase.rows)):.0%}", "correct"),
            (str(phase.advice.cut), "recommended afterwards"),
            (phase.advice.best_candidate, "best place for a bottleneck"),
        ]
    )
    rows = [
        (
            served.cut,
            served.photos,
            round(served.bytes_sent),
            served.head_ms,
            served.encode_ms,
            served.round_trip_ms,
            served.tail_ms,
            served.correct / served.photos,
        )
        for served in by_cut(phase.rows)
    ]
    times = ("head ms", "encode ms", "round trip ms", "tail ms")
    page.table(
        ("cut", "photos", "bytes sent", *times, "share correct"),
        rows,
        caption="Means of bytes, medians of times; loopback, no slow link.",
    )


def _curves(measured: Profile, before: Recommendation, phases: Sequence[Phase]) -> Figure:
    blocks = [point for point in measured.split_points if point.is_block]
    answers = [("before traffic", before), *((phase.name, phase.advice) for phase in phases)]
    lines = []
    for name, answer in answers:
        curve = {point.split_point: point for point in answer.curve}
        values = [curve[block.name].cui for block in blocks]
        errors = [curve[block.name].standard_error for block in blocks]
        lines.append(Line(name, np.asarray(values), np.asarray(errors)))
    return curve_figure(blocks, lines)
