"""Sections about live traffic: what the endpoint recommended, and what was served."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final

import numpy as np

from ..advice import LiveView
from ..profile import Profile
from ..schema import CurvePoint, Recommendation
from .figures import Line, curve_figure
from .page import Cell, Page

_MIXES: Final = {
    "live": "the live mix",
    "profile": "the mix of the calibration set",
    "asked": "the asked classes",
}
_SHOWN_SHARES: Final = 5
_SHOWN_CLASSES: Final = 10


def add_recommendation(page: Page, profile: Profile, answer: Recommendation) -> None:
    """One answer of the endpoint: the cut to use, every rated cut, and the curve of its mix."""
    group = "" if answer.group == "all" else f", group {answer.group}"
    after = f", after {answer.observations:,} requests" if answer.observations else ""
    page.section(f"Recommended for {_MIXES.get(answer.mix, answer.mix)}{group}{after}")
    page.text(answer.reason)
    page.facts(
        [
            (str(answer.cut), "use now"),
            (_whole(answer.use.nbytes), "bytes an image"),
            (_milliseconds(answer.use.latency_ms), f"expected ({answer.use.latency_source})"),
            (f"{answer.confidence:.1%}", "agreement at least"),
            (answer.best_candidate, "place for a bottleneck"),
            (answer.observations, f"live observations ({answer.source})"),
        ]
    )
    shares = [f"{share.label} {share.weight:.0%}" for share in answer.classes]
    if shares:
        more = ", ..." if len(shares) > _SHOWN_SHARES else ""
        page.text(f"Classes: {', '.join(shares[:_SHOWN_SHARES])}{more}.")
    rows: list[tuple[Cell, ...]] = [
        (
            str(row.cut),
            _whole(row.nbytes),
            _percent(row.agreement),
            float(row.latency_ms),
            row.verdict,
            row.reason,
        )
        for row in answer.cuts
    ]
    page.table(
        ("cut", "bytes", "agreement", "latency ms", "verdict", "why"),
        rows,
        marked={i for i, row in enumerate(answer.cuts) if row.verdict == "picked"},
        folded=f"All {len(answer.cuts)} cuts",
    )
    _add_curve(page, profile, answer)


def add_live_traffic(page: Page, profile: Profile, live: LiveView) -> None:
    """What was served, by cut and device group, and which classes were predicted."""
    page.section("Live traffic")
    if live.as_of is not None:
        newest = datetime.fromtimestamp(live.as_of, UTC)
        page.text(f"Newest observation: {newest:%Y-%m-%d %H:%M:%S} UTC.")
    rows: list[tuple[Cell, ...]] = [
        (
            str(row.cut),
            row.group,
            round(row.requests),
            round(row.errors),
            row.bytes / row.requests if row.requests else None,
            row.head.median_ms,
            row.tail.median_ms,
            row.uplink.median_ms,
            row.rtt.median_ms,
            row.queue.median_ms,
        )
        for row in sorted(live.served, key=lambda row: -row.requests)
    ]
    times = ("head ms", "tail ms", "uplink ms", "round trip ms", "queue ms")
    page.table(
        ("cut", "group", "requests", "errors", "bytes", *times),
        rows,
        caption="Requests by cut; times are medians, a dash where nobody reported one",
    )
    _add_class_shares(page, profile, live)


def _add_curve(page: Page, profile: Profile, answer: Recommendation) -> None:
    curve: dict[str, CurvePoint] = {point.split_point: point for point in answer.curve}
    members = [
        i for i, point in enumerate(profile.split_points) if point.is_block and point.name in curve
    ]
    if len(members) < 2:
        return
    points = [profile.split_points[i] for i in members]
    mix = Line(
        f"asked classes ({answer.source})",
        np.asarray([curve[p.name].cui for p in points], dtype=np.float64),
        np.asarray([curve[p.name].standard_error for p in points], dtype=np.float64),
    )
    prior = Line("profile, all classes", profile.curve().mean[members])
    page.figure(
        curve_figure(points, [mix], ground=prior),
        alt="CUI of the asked classes over the block outputs, beside the profile's over all "
        "classes",
    )


def _add_class_shares(page: Page, profile: Profile, live: LiveView) -> None:
    counts = live.class_counts
    total = float(counts.weight.sum())
    order = np.argsort(-counts.weight, kind="stable")[:_SHOWN_CLASSES] if total > 0 else ()
    rows = [
        (
            _label(profile, int(counts.class_ids[i])),
            f"{counts.weight[i] / total:.1%}",
            round(float(counts.count[i])),
        )
        for i in order
    ]
    page.table(
        ("class", "share now", "requests"),
        rows,
        caption="The most common classes; the share forgets old requests",
    )


def _whole(value: float) -> int | None:
    return round(value) if math.isfinite(value) else None


def _milliseconds(value: float) -> str | None:
    return f"{value:.1f} ms" if math.isfinite(value) else None


def _percent(share: float | None) -> str | None:
    return f"{share:.1%}" if share is not None and math.isfinite(share) else None


def _label(profile: Profile, class_id: int) -> str:
    return profile.classes[class_id] if 0 <= class_id < len(profile.classes) else str(class_id)
