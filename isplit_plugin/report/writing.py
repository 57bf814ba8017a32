"""The page of a profile, and of what was recommended and served since."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ..advice import LiveView
from ..advice.intervals import wilson
from ..profile import CutMeasurement, Profile
from ..schema import INPUT, OUTPUT, Cut, Recommendation
from .figures import Line, candidates, class_figure, curve_figure, faithful, overview_figure
from .page import Cell, Page

__all__ = ["profile_page", "write_report"]

_SHOWN_CLASSES = 5


def write_report(
    path: str | Path,
    profile: Profile,
    *,
    shown_classes: Sequence[int] | None = None,
    recommendations: Sequence[Recommendation] | None = None,
    live: LiveView | None = None,
    title: str | None = None,
) -> Path:
    """Write one self-contained HTML page and return its path.

    ``shown_classes``: class ids to draw (default: the five commonest). ``recommendations`` and ``live`` add what the
    endpoint answered and what was served. Raises UnknownClassError, ArtifactError where the file cannot be written.
    """
    return profile_page(
        profile,
        shown_classes=shown_classes,
        recommendations=recommendations,
        live=live,
        title=title,
    ).write(path)


def profile_page(
    profile: Profile,
    *,
    shown_classes: Sequence[int] | None = None,
    recommendations: Sequence[Recommendation] | None = None,
    live: LiveView | None = None,
    title: str | None = None,
    page: Page | None = None,
) -> Page:
    """The same as a :class:`Page`, to add sections to; ``page``: one that has some already."""
    title = title or f"{profile.model or 'network'}: where to split"
    page = (
        Page(title, f"network {profile.network_hash[:16]}") if page is None else page.section(title)
    )
    _summary(page, profile)
    for recommendation in recommendations or ():
        _recommendation(page, profile, recommendation)
    if live is not None:
        _live(page, profile, live)
    _curves(page, profile, shown_classes)
    _measures(page, profile)
    page.section("How this was measured").table(
        ("what", "value"), sorted(profile.provenance.items())
    )
    return page


def _summary(page: Page, profile: Profile) -> None:
    jpeg = profile.measurement(Cut("input", "jpeg"))
    page.facts(
        [
            (int(profile.count.sum()), "calibration images"),
            (f"{int((profile.count > 0).sum())} of {len(profile.classes)}", "classes seen"),
            (
                None if profile.accuracy is None else f"{profile.accuracy:.1%}",
                "right, where labelled",
            ),
            (len(profile.split_points), "split points"),
            (None if jpeg is None else round(jpeg.nbytes), "bytes as a JPEG, the rival"),
        ]
    )
    page.text(_verdict(profile))


def _verdict(profile: Profile) -> str:
    """In a sentence: does splitting without training pay here, against sending the JPEG?"""
    kept = faithful([m for m in profile.measurements if m.split_point not in (INPUT, OUTPUT)])
    jpeg = profile.measurement(Cut(INPUT, "jpeg"))
    if not kept:
        return "No measured cut keeps the full network's answer on at least 99 % of the images."
    if jpeg is None:
        best = min(kept, key=lambda m: m.nbytes)
        return (
            f"The smallest cut that keeps at least 99 % of the answers is {_words(profile, best)}."
        )
    smaller = [m for m in kept if m.nbytes < jpeg.nbytes]
    if not smaller:
        best = min(kept, key=lambda m: m.nbytes)
        return (
            "No measured cut that keeps at least 99 % of the answers sends less than the JPEG of the same crop: "
            f"without a trained bottleneck, splitting saves no bytes here. The smallest is {_words(profile, best)}."
        )
    earliest = profile.split_points[min(profile.point_index(m.split_point) for m in smaller)].name
    best = min((m for m in smaller if m.split_point == earliest), key=lambda m: m.nbytes)
    return (
        "The earliest cut that keeps at least 99 % of the answers and sends less than the JPEG of the same crop is "
        f"{_words(profile, best)}, {best.nbytes / jpeg.nbytes:.2f} of the JPEG."
    )


def _words(profile: Profile, m: CutMeasurement) -> str:
    words = f"{m.split_point} with {m.codec} ({m.agreeing.sum()} of {m.images.sum()} images): {m.nbytes:,.0f} bytes an image"
    head, whole = profile.head_ms.get(m.split_point), profile.head_ms.get(OUTPUT)
    return words + (
        f" after {head / whole:.0%} of the computing time" if head is not None and whole else ""
    )


def _curves(page: Page, profile: Profile, shown: Sequence[int] | None) -> None:
    points = profile.split_points
    curve = profile.curve()
    chosen = candidates(points, curve.mean)
    page.section("Importance and size over the split points")
    page.text(
        "Cumulative importance (CUI) predicts where a bottleneck that is still to be trained would hurt least: its "
        "local maxima over the block outputs (stars). It says nothing about codecs that need no training; those are "
        "measured below. CUI averages over channels, so ranks across different widths are partly its definition."
    )
    names = ", ".join(points[i].name for i in chosen) or "none"
    page.figure(
        overview_figure(profile),
        alt=f"CUI, bytes and head time over {len(points)} split points; candidates: {names}",
        caption="Band: 95 % interval of the mean. Dots: block outputs. An open triangle marks an importance of zero.",
    )
    if chosen:
        page.table(
            ("candidate", "CUI", "standard error", "fp32 bytes", "head MACs", "tail MACs"),
            [
                (
                    points[i].name,
                    float(curve.mean[i]),
                    float(curve.standard_error[i]),
                    points[i].nbytes,
                    points[i].macs.head,
                    points[i].macs.tail,
                )
                for i in sorted(chosen, key=lambda i: -curve.mean[i])
            ],
            caption="Places for a bottleneck: strict interior local maxima over the block outputs, highest first",
        )
    if shown is None:
        rows = np.argsort(-profile.count, kind="stable")[:_SHOWN_CLASSES]
        shown = [int(profile.class_ids[r]) for r in rows if profile.count[r] > 1]
    profile.class_rows(shown)
    if shown:
        page.section("Importance by class")
        page.figure(
            class_figure(profile, shown),
            alt="CUI of " + ", ".join(profile.classes[c] for c in shown),
            caption="Block outputs only; number of images in brackets. Each curve's own candidates are starred.",
        )


def _measures(page: Page, profile: Profile) -> None:
    page.section("Measured codecs")
    page.text(
        "Agreement: the share of images whose top class stays the full network's, with its 95 % interval (Wilson). "
        "Bytes are of one image on the wire. Marked rows are smaller than the JPEG."
    )
    groups: dict[str, list[CutMeasurement]] = defaultdict(list)
    for measure in profile.measurements:
        groups[measure.split_point].append(measure)
    best = [
        min(faithful(measures) or measures, key=lambda m: m.nbytes) for measures in groups.values()
    ]
    jpeg = profile.measurement(Cut(INPUT, "jpeg"))
    if jpeg is not None and jpeg not in best:
        best.append(jpeg)
    _measure_table(
        page,
        profile,
        best,
        caption="At each split point the smallest codec that agrees on 99 %, if any; and the JPEG",
    )
    _measure_table(
        page,
        profile,
        profile.measurements,
        folded=f"All {len(profile.measurements)} measured choices",
    )


def _measure_table(
    page: Page,
    profile: Profile,
    measures: Sequence[CutMeasurement],
    *,
    caption: str = "",
    folded: str = "",
) -> None:
    jpeg = profile.measurement(Cut("input", "jpeg"))
    order = {
        name: i for i, name in enumerate((INPUT, *(p.name for p in profile.split_points), OUTPUT))
    }
    shown = sorted(measures, key=lambda m: (order[m.split_point], m.nbytes))
    rows: list[tuple[Cell, ...]] = []
    for m in shown:
        seen, agree = int(m.images.sum()), int(m.agreeing.sum())
        low, high = wilson(agree / seen if seen else 0.0, seen)
        rows.append(
            (
                m.split_point,
                m.codec,
                round(m.nbytes),
                None if jpeg is None else float(m.nbytes / jpeg.nbytes),
                f"{agree / seen:.1%} ({low:.1%} to {high:.1%})" if seen else None,
                seen,
                float(m.encode_ms),
                float(m.decode_ms),
                profile.head_ms.get(m.split_point),
                profile.tail_ms.get(m.split_point),
            )
        )
    smaller = {
        i
        for i, m in enumerate(shown)
        if jpeg is not None and m.nbytes < jpeg.nbytes and m.split_point in order
    }
    times = ("encode ms", "decode ms", "head ms", "tail ms")
    header = ("split point", "codec", "bytes", "x JPEG", "agreement", "images", *times)
    page.table(header, rows, caption=caption, folded=folded, marked=smaller)


def _recommendation(page: Page, profile: Profile, answer: Recommendation) -> None:
    mix = ", ".join(f"{share.label} {share.weight:.0%}" for share in answer.classes[:5])
    classes = {
        "live": "the live mix",
        "profile": "the mix of the calibration set",
        "asked": "the asked classes",
    }
    group = "" if answer.group == "all" else f", group {answer.group}"
    after = f", after {answer.observations:,} requests" if answer.observations else ""
    page.section(f"Recommended for {classes.get(answer.mix, answer.mix)}{group}{after}")
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
    if mix:
        page.text(f"Classes: {mix}{', ...' if len(answer.classes) > 5 else ''}.")
    page.table(
        ("cut", "bytes", "agreement", "latency ms", "verdict", "why"),
        [
            (
                str(c.cut),
                _whole(c.nbytes),
                _percent(c.agreement),
                float(c.latency_ms),
                c.verdict,
                c.reason,
            )
            for c in answer.cuts
        ],
        marked={i for i, c in enumerate(answer.cuts) if c.verdict == "picked"},
        folded=f"All {len(answer.cuts)} cuts",
    )
    _recommended_curve(page, profile, answer)


def _recommended_curve(page: Page, profile: Profile, answer: Recommendation) -> None:
    found = {point.split_point: point for point in answer.curve}
    members = [i for i, p in enumerate(profile.split_points) if p.is_block and p.name in found]
    if len(members) < 2:
        return
    points = [profile.split_points[i] for i in members]
    asked = Line(
        f"asked classes ({answer.source})",
        np.asarray([found[p.name].cui for p in points], dtype=np.float64),
        np.asarray([found[p.name].standard_error for p in points], dtype=np.float64),
    )
    prior = Line("profile, all classes", profile.curve().mean[members])
    page.figure(
        curve_figure(points, [asked], ground=prior),
        alt="CUI of the asked classes over the block outputs, beside the profile's over all classes",
    )


def _live(page: Page, profile: Profile, live: LiveView) -> None:
    page.section("Live traffic")
    if live.as_of is not None:
        page.text(
            f"Newest observation: {datetime.fromtimestamp(live.as_of, UTC):%Y-%m-%d %H:%M:%S} UTC."
        )
    rows: list[tuple[Cell, ...]] = [
        (
            str(r.cut),
            r.group,
            round(r.requests),
            round(r.errors),
            r.bytes / r.requests if r.requests else None,
            r.head.median_ms,
            r.tail.median_ms,
            r.uplink.median_ms,
        )
        for r in sorted(live.served, key=lambda r: -r.requests)
    ]
    header = (
        "cut",
        "group",
        "requests",
        "errors",
        "bytes",
        "head ms",
        "tail ms",
        "uplink ms",
    )
    page.table(
        header,
        rows,
        caption="Requests by split point; times are medians, a dash where nobody reported one",
    )
    seen = live.class_counts
    order = np.argsort(-seen.weight, kind="stable")[:10]
    total = float(seen.weight.sum())
    page.table(
        ("class", "share now", "requests"),
        [
            (
                _label(profile, int(seen.class_ids[i])),
                f"{seen.weight[i] / total:.1%}",
                round(float(seen.count[i])),
            )
            for i in order
            if total > 0
        ],
        caption="Classes seen most; the share forgets old requests",
    )


def _whole(value: float) -> int | None:
    return round(value) if math.isfinite(value) else None


def _milliseconds(value: float) -> str | None:
    return f"{value:.1f} ms" if math.isfinite(value) else None


def _percent(share: float | None) -> str | None:
    return f"{share:.1%}" if share is not None and math.isfinite(share) else None


def _label(profile: Profile, class_id: int) -> str:
    return profile.classes[class_id] if 0 <= class_id < len(profile.classes) else str(class_id)
