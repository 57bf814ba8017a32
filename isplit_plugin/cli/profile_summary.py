"""A profile for people and for programs: the output of ``isplit profile``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from ..schema import INPUT
from ..terminal import YARDSTICK, ratio, table

if TYPE_CHECKING:
    from ..advice import SmallestCodec, Yardstick
    from ..profile import CutMeasurement, Profile

_LINES: Final = 24


def summary(profile: Profile, tolerance: float = 0.01) -> dict[str, Any]:
    """The summary as JSON types.

    ``smallest`` maps each measured split point to its smallest faithful codec, or ``None``, and
    ``best_photo`` is the faithful photo with the fewest bytes. ``byte_ratio`` and ``tail_share``
    are the yardstick (:func:`isplit_plugin.advice.yardstick`), ``null`` where it is not known.
    ``head_times`` is the engine in which heads were timed.
    """
    from ..advice import best_photo

    curve = profile.curve().mean
    photo = best_photo(profile, tolerance)
    return {
        "model": profile.model,
        "network_hash": profile.network_hash,
        "images": int(profile.count.sum()),
        "skipped": int(profile.provenance.get("skipped", "0")),
        "head_times": profile.provenance.get("head_times"),
        "classes_with_images": [int(class_id) for class_id in profile.class_ids],
        "accuracy": profile.accuracy,
        "curve": {
            point.name: float(cui) for point, cui in zip(profile.split_points, curve, strict=True)
        },
        "measurements": [
            {
                "split_point": measurement.split_point,
                "codec": measurement.cut.coding,
                "bytes": measurement.nbytes,
                "encode_ms": measurement.encode_ms,
                "decode_ms": measurement.decode_ms,
                "images": int(measurement.images.sum()),
                "agreement": measurement.agreement,
                "under_loss": {
                    str(loss): agreement for loss, agreement in measurement.under_loss.items()
                },
                **_yardstick_json(profile, measurement, photo),
            }
            for measurement in profile.measurements
        ],
        "refinements": [refinement.to_json() for refinement in profile.refinements],
        "best_photo": photo and _smallest_json(profile, photo, photo),
        "smallest": {
            name: smallest and _smallest_json(profile, smallest, photo)
            for name, smallest in _smallest_codecs(profile, tolerance).items()
        },
    }


def render(profile: Profile, tolerance: float = 0.01) -> str:
    """What was measured: a title, the smallest faithful codecs, the smallest cuts, the winners."""
    from ..advice import winner_grid
    from ..report import winner_text

    parts = [
        _title(profile),
        render_smallest(profile, tolerance),
        _smallest_cuts(profile, tolerance),
        _refinements(profile),
        winner_text(winner_grid(profile, tolerance=tolerance)),
    ]
    return "\n\n".join(part for part in parts if part)


def render_smallest(profile: Profile, tolerance: float) -> str:
    """A table of the smallest faithful codec at each measured split point."""
    from ..advice import best_photo

    photo = best_photo(profile, tolerance)
    smallest = _smallest_codecs(profile, tolerance)
    rows: list[tuple[object, ...]] = []
    for name, codec in smallest.items():
        if codec is None:
            rows.append((name, "none measured", *("-",) * 6))
            continue
        stick = _yardstick(profile, codec.measurement, photo)
        rows.append(
            (
                name,
                codec.measurement.cut.coding,
                round(codec.measurement.nbytes),
                ratio(stick.byte_ratio),
                ratio(stick.tail_share),
                "yes" if stick.can_win and name != INPUT else "",
                f"{codec.agreement:.1%}" + ("*" if codec.photos_needed else ""),
                f"{codec.low:.1%}",
            )
        )
    title = (
        "smallest codec at each split point that agrees with the full network on all but "
        f"{tolerance:.1%} of the photos"
    )
    header = ("split point", "codec", "bytes", "b/p", "1-h", "can win", "agreement", "low (95 %)")
    return "\n".join([title, table(header, rows), YARDSTICK, *_doubts(smallest.values())])


def _doubts(smallest: Iterable[SmallestCodec | None]) -> list[str]:
    """That the photos cannot tell whether some of these codecs are faithful, if so."""
    doubtful = [codec for codec in smallest if codec is not None and codec.photos_needed]
    if not doubtful:
        return []
    most = max(codec.photos_needed or 0 for codec in doubtful)
    return [
        f"* below the tolerance, but {doubtful[0].images} photos cannot tell whether by chance; "
        f"about {most:,} would"
    ]


def _smallest_cuts(profile: Profile, tolerance: float) -> str:
    """A table of the measured cuts with the fewest bytes, faithful or not, one in each line."""
    from ..advice import best_photo

    photo = best_photo(profile, tolerance)
    rows = []
    for measurement in sorted(profile.measurements, key=lambda m: m.nbytes)[:_LINES]:
        stick = _yardstick(profile, measurement, photo)
        rows.append(
            (
                measurement.split_point,
                measurement.cut.coding,
                round(measurement.nbytes),
                ratio(stick.byte_ratio),
                ratio(stick.tail_share),
                f"{measurement.agreement:.1%}",
                f"{profile.head_ms.get(measurement.split_point, math.nan):.1f}",
                f"{measurement.encode_ms:.2f}",
                f"{profile.tail_ms.get(measurement.split_point, math.nan):.1f}",
            )
        )
    times = ("head ms", "encode ms", "tail ms")
    header = ("split point", "codec", "bytes", "b/p", "1-h", "agreement", *times)
    return f"measured cuts with the fewest bytes\n{table(header, rows)}"


def _refinements(profile: Profile) -> str:
    """Where refining cuts may be used, and what is missing elsewhere; empty without any."""
    lines = []
    for refinement in profile.refinements:
        if refinement.is_proven:
            state = (
                f"{refinement.share:.0%} of the photos are sent again; of the others "
                f"{refinement.differing} of {refinement.photos} differ, at most "
                f"{refinement.bound:.2%} with 95 % confidence"
            )
        else:
            state = f"off: {refinement.missing}"
        lines.append(f"  {refinement.split_point}: {state}")
    return "\n".join(["refinement", *lines]) if lines else ""


def _yardstick(
    profile: Profile, measurement: CutMeasurement, photo: SmallestCodec | None
) -> Yardstick:
    from ..advice import yardstick

    photo_bytes = math.nan if photo is None else photo.measurement.nbytes
    return yardstick(profile, measurement.split_point, measurement.nbytes, photo_bytes)


def _yardstick_json(
    profile: Profile, measurement: CutMeasurement, photo: SmallestCodec | None
) -> dict[str, float | None]:
    stick = _yardstick(profile, measurement, photo)
    return {k: None if math.isnan(v) else v for k, v in stick._asdict().items()}


def _smallest_json(
    profile: Profile, smallest: SmallestCodec, photo: SmallestCodec | None
) -> dict[str, Any]:
    return {
        "codec": smallest.measurement.cut.coding,
        "bytes": smallest.measurement.nbytes,
        "agreement": smallest.agreement,
        "low": smallest.low,
        "images": smallest.images,
        "photos_needed": smallest.photos_needed,
        **_yardstick_json(profile, smallest.measurement, photo),
    }


def _title(profile: Profile) -> str:
    """Network, photos and accuracy; warnings if photos were skipped, or heads not timed as devices
    run them."""
    accuracy = "" if profile.accuracy is None else f", accuracy {profile.accuracy:.1%}"
    title = (
        f"{profile.model}: {int(profile.count.sum())} photos "
        f"of {len(profile.class_ids)} classes{accuracy}"
    )
    forms = profile.provenance.get("photo_forms")
    if forms:
        title += f"\nthe photo in {forms}"
    skipped = profile.provenance.get("skipped", "0")
    if skipped != "0":
        reasons = profile.provenance.get("skipped_why", "unreadable")
        title += f"\nwarning: {skipped} skipped, {reasons}"
    if profile.provenance.get("head_times") == "PyTorch":
        title += (
            "\nwarning: head times are those of PyTorch, not of onnxruntime, in which devices run "
            "heads"
        )
    return title


def _smallest_codecs(profile: Profile, tolerance: float) -> dict[str, SmallestCodec | None]:
    """Measured split point, from the input onwards -> its smallest faithful codec."""
    from ..advice import smallest_codec

    measured = {measurement.split_point for measurement in profile.measurements}
    names = (INPUT, *(point.name for point in profile.split_points))
    return {name: smallest_codec(profile, name, tolerance) for name in names if name in measured}
