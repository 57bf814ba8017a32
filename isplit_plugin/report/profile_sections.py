"""Sections about a profile: what splitting costs, where importance lies, what was measured."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np

from ..advice import best_photo, photos_needed, wilson, yardstick
from ..profile import CutMeasurement, Profile
from ..schema import INPUT, OUTPUT
from .figures import candidates, class_figure, faithful, overview_figure
from .page import Cell, Page

_SHOWN_CLASSES: Final = 5


def add_summary(page: Page, profile: Profile) -> None:
    """The profile's main figures, and in words whether splitting pays."""
    photo = _photo(profile)
    accuracy = profile.accuracy
    page.facts(
        [
            (int(profile.count.sum()), "calibration images"),
            (f"{int((profile.count > 0).sum())} of {len(profile.classes)}", "classes predicted"),
            (None if accuracy is None else f"{accuracy:.1%}", "accuracy on labelled images"),
            (len(profile.split_points), "split points"),
            (None if photo is None else round(photo.nbytes), "bytes of the best faithful photo"),
        ]
    )
    page.text(_conclusion(profile))


def add_curves(page: Page, profile: Profile, shown_classes: Sequence[int] | None) -> None:
    """Importance, bytes and head time over the split points, then importance by class."""
    page.section("Importance and size over the split points")
    page.text(
        "Cumulative importance (CUI) predicts where a bottleneck that is still to be trained costs "
        "the least accuracy: its local maxima over the block outputs (stars). It says nothing "
        "about codecs that need no training; those are measured below. CUI averages over channels, "
        "so ranks across different widths are partly its definition."
    )
    points = profile.split_points
    curve = profile.curve()
    members = candidates(points, curve.mean)
    names = ", ".join(points[i].name for i in members) or "none"
    page.figure(
        overview_figure(profile),
        alt=f"CUI, bytes and head time over {len(points)} split points; candidates: {names}",
        caption="Band: 95 % interval of the mean. Dots: block outputs. An open triangle marks an "
        "importance of zero.",
    )
    if members:
        _add_candidate_table(page, profile, members)
    _add_class_curves(page, profile, shown_classes)


def add_measurements(page: Page, profile: Profile) -> None:
    """The measured cuts: the smallest faithful one of each split point, then all of them."""
    page.section("Measured codecs")
    page.text(
        "Agreement: the share of images whose top class stays the full network's, with its 95 % "
        "interval (Wilson). Bytes are of one image on the wire. Marked rows are smaller than the "
        "best photo, the faithful one with the fewest bytes. b / p: bytes, by those of the best "
        "photo. 1 - h: share of the network's time that is left to the server. A split can be "
        "faster than both the photo and the whole network on the device only where b / p is below "
        "1 - h. Undecided: the share is below 99 %, but too few photos tell whether by chance."
    )
    by_split_point: dict[str, list[CutMeasurement]] = defaultdict(list)
    for measurement in profile.measurements:
        by_split_point[measurement.split_point].append(measurement)
    smallest = [
        min(faithful(measurements) or measurements, key=lambda m: m.nbytes)
        for measurements in by_split_point.values()
    ]
    photo = _photo(profile)
    if photo is not None and photo not in smallest:
        smallest.append(photo)
    _add_measurement_table(
        page,
        profile,
        smallest,
        caption="At each split point the smallest codec that agrees on 99 %, or may; and the best photo",
    )
    _add_measurement_table(
        page,
        profile,
        profile.measurements,
        folded=f"All {len(profile.measurements)} measured cuts",
    )


def add_provenance(page: Page, profile: Profile) -> None:
    """Versions, machine and options behind the profile."""
    page.section("How this was measured")
    page.table(("what", "value"), sorted(profile.provenance.items()))


def _conclusion(profile: Profile) -> str:
    """One sentence: does splitting without training pay, compared with sending the photo?"""
    splits = [m for m in profile.measurements if m.split_point not in (INPUT, OUTPUT)]
    accurate = faithful(splits)
    if not accurate:
        return "No measured cut keeps the full network's answer on at least 99 % of the images."
    smallest = min(accurate, key=lambda m: m.nbytes)
    photo = _photo(profile)
    if photo is None:
        return (
            "The smallest cut that keeps at least 99 % of the answers is "
            f"{_description(profile, smallest)}."
        )
    smaller = [m for m in accurate if m.nbytes < photo.nbytes]
    if not smaller:
        return (
            "No measured cut that keeps at least 99 % of the answers sends less than the best photo, "
            f"{photo.cut.coding}: without a trained bottleneck, splitting saves no bytes here. The "
            f"smallest is {_description(profile, smallest)}."
        )
    first = min(profile.point_index(m.split_point) for m in smaller)
    at_first = [m for m in smaller if m.split_point == profile.split_points[first].name]
    earliest = min(at_first, key=lambda m: m.nbytes)
    doubt = "" if photos_needed(earliest) is None else ", as far as these photos can tell,"
    return (
        f"The earliest cut that keeps at least 99 % of the answers{doubt} and sends less than the "
        f"best photo, {photo.cut.coding}, is {_description(profile, earliest)}, "
        f"{earliest.nbytes / photo.nbytes:.2f} of the photo."
    )


def _photo(profile: Profile) -> CutMeasurement | None:
    """The measurement of the best faithful photo."""
    photo = best_photo(profile)
    return None if photo is None else photo.measurement


def _description(profile: Profile, m: CutMeasurement) -> str:
    words = (
        f"{m.split_point} with {m.cut.coding} ({m.agreeing.sum()} of {m.images.sum()} images): "
        f"{m.nbytes:,.0f} bytes an image"
    )
    head_ms = profile.head_ms.get(m.split_point)
    whole_ms = profile.head_ms.get(OUTPUT)
    if head_ms is None or not whole_ms:
        return words
    return f"{words} after {head_ms / whole_ms:.0%} of the computing time"


def _add_candidate_table(page: Page, profile: Profile, members: Sequence[int]) -> None:
    curve = profile.curve()
    rows = []
    for i in sorted(members, key=lambda i: -curve.mean[i]):
        point = profile.split_points[i]
        mean = float(curve.mean[i])
        error = float(curve.standard_error[i])
        rows.append((point.name, mean, error, point.nbytes, point.macs.head, point.macs.tail))
    page.table(
        ("candidate", "CUI", "standard error", "fp32 bytes", "head MACs", "tail MACs"),
        rows,
        caption="Places for a bottleneck: strict interior local maxima over the block outputs, "
        "highest first",
    )


def _add_class_curves(page: Page, profile: Profile, class_ids: Sequence[int] | None) -> None:
    if class_ids is None:
        rows = np.argsort(-profile.count, kind="stable")[:_SHOWN_CLASSES]
        class_ids = [int(profile.class_ids[row]) for row in rows if profile.count[row] > 1]
    profile.class_rows(class_ids)  # raises UnknownClassError
    if not class_ids:
        return
    page.section("Importance by class")
    page.figure(
        class_figure(profile, class_ids),
        alt="CUI of " + ", ".join(profile.classes[c] for c in class_ids),
        caption="Block outputs only; number of images in brackets. Each curve's own candidates are "
        "starred.",
    )


def _add_measurement_table(
    page: Page,
    profile: Profile,
    measurements: Sequence[CutMeasurement],
    *,
    caption: str = "",
    folded: str = "",
) -> None:
    photo = _photo(profile)
    names = (INPUT, *(point.name for point in profile.split_points), OUTPUT)
    order = {name: i for i, name in enumerate(names)}
    ordered = sorted(measurements, key=lambda m: (order[m.split_point], m.nbytes))
    times = ("encode ms", "decode ms", "head ms", "tail ms")
    page.table(
        ("split point", "codec", "bytes", "b / p", "1 - h", "agreement", "images", *times),
        [_measurement_row(profile, m, photo) for m in ordered],
        caption=caption,
        folded=folded,
        marked={i for i, m in enumerate(ordered) if photo is not None and m.nbytes < photo.nbytes},
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _measurement_row(
    profile: Profile, m: CutMeasurement, photo: CutMeasurement | None
) -> tuple[Cell, ...]:
    images = int(m.images.sum())
    photo_bytes = math.nan if photo is None else photo.nbytes
    stick = yardstick(profile, m.split_point, m.nbytes, photo_bytes)
    agreement = None
    if images:
        share = int(m.agreeing.sum()) / images
        low, high = wilson(share, images)
        agreement = f"{share:.1%} ({low:.1%} to {high:.1%})"
        needed = photos_needed(m)
        if needed is not None:
            agreement += f"; undecided, about {needed:,} photos would tell"
    return (
        m.split_point,
        m.cut.coding,
        round(m.nbytes),
        _known(stick.byte_ratio),
        _known(stick.tail_share),
        agreement,
        images,
        float(m.encode_ms),
        float(m.decode_ms),
        profile.head_ms.get(m.split_point),
        profile.tail_ms.get(m.split_point),
    )
