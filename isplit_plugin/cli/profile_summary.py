"""A profile for people and for programs: the output of ``isplit profile``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..schema import INPUT
from ..terminal import table

if TYPE_CHECKING:
    from ..advice import SmallestCodec
    from ..profile import Profile

_LINES: Final = 24


def summary(profile: Profile, tolerance: float = 0.01) -> dict[str, Any]:
    """The summary as JSON types.

    ``smallest`` maps each measured split point to its smallest faithful codec, or ``None``.
    """
    curve = profile.curve().mean
    return {
        "model": profile.model,
        "network_hash": profile.network_hash,
        "images": int(profile.count.sum()),
        "skipped": int(profile.provenance.get("skipped", "0")),
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
                "agreement": measurement.agreement,
            }
            for measurement in profile.measurements
        ],
        "smallest": {
            name: smallest
            and {
                "codec": smallest.measurement.cut.coding,
                "bytes": smallest.measurement.nbytes,
                "agreement": smallest.agreement,
                "low": smallest.low,
                "images": smallest.images,
            }
            for name, smallest in _smallest_codecs(profile, tolerance).items()
        },
    }


def render(profile: Profile, tolerance: float = 0.01) -> str:
    """What was measured: a title, the smallest faithful codecs, and then the smallest cuts."""
    return "\n\n".join(
        [_title(profile), render_smallest(profile, tolerance), _smallest_cuts(profile)]
    )


def render_smallest(profile: Profile, tolerance: float) -> str:
    """A table of the smallest faithful codec at each measured split point."""
    photo = _photo_bytes(profile)
    rows: list[tuple[object, ...]] = []
    for name, smallest in _smallest_codecs(profile, tolerance).items():
        if smallest is None:
            rows.append((name, "none measured", "-", "-", "-", "-"))
        else:
            nbytes = smallest.measurement.nbytes
            rows.append(
                (
                    name,
                    smallest.measurement.cut.coding,
                    round(nbytes),
                    f"{nbytes / photo:.2f}",
                    f"{smallest.agreement:.1%}",
                    f"{smallest.low:.1%}",
                )
            )
    title = (
        "smallest codec at each split point that agrees with the full network on all but "
        f"{tolerance:.1%} of the photos"
    )
    header = ("split point", "codec", "bytes", "x photo", "agreement", "at least (95 %)")
    return f"{title}\n{table(header, rows)}"


def _smallest_cuts(profile: Profile) -> str:
    """A table of the measured cuts with the fewest bytes, faithful or not, one in each line."""
    photo = _photo_bytes(profile)
    rows = [
        (
            measurement.split_point,
            measurement.cut.coding,
            round(measurement.nbytes),
            f"{measurement.nbytes / photo:.2f}",
            f"{measurement.agreement:.1%}",
            f"{profile.head_ms.get(measurement.split_point, float('nan')):.1f}",
            f"{profile.tail_ms.get(measurement.split_point, float('nan')):.1f}",
        )
        for measurement in sorted(profile.measurements, key=lambda m: m.nbytes)
    ]
    header = ("split point", "codec", "bytes", "x photo", "agreement", "head ms", "tail ms")
    return f"measured cuts with the fewest bytes\n{table(header, rows[:_LINES])}"


def _title(profile: Profile) -> str:
    """Network, photos and accuracy, with a warning if photos were skipped."""
    accuracy = "" if profile.accuracy is None else f", accuracy {profile.accuracy:.1%}"
    title = (
        f"{profile.model}: {int(profile.count.sum())} photos "
        f"of {len(profile.class_ids)} classes{accuracy}"
    )
    skipped = profile.provenance.get("skipped", "0")
    if skipped != "0":
        reasons = profile.provenance.get("skipped_why", "unreadable")
        title += f"\nwarning: {skipped} skipped, {reasons}"
    return title


def _smallest_codecs(profile: Profile, tolerance: float) -> dict[str, SmallestCodec | None]:
    """Measured split point, from the input onwards -> its smallest faithful codec."""
    from ..advice import smallest_codec

    measured = {measurement.split_point for measurement in profile.measurements}
    names = (INPUT, *(point.name for point in profile.split_points))
    return {name: smallest_codec(profile, name, tolerance) for name in names if name in measured}


def _photo_bytes(profile: Profile, tolerance: float = 0.01) -> float:
    """The mean bytes of the best faithful photo; NaN if none was measured."""
    from ..advice import best_photo

    photo = best_photo(profile, tolerance)
    return np.nan if photo is None else photo.measurement.nbytes
