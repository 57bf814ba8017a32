"""The smallest codec at a split point that changes the answer seldom enough."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from ..errors import QueryError, UnknownSplitPointError
from ..profile import CutMeasurement, Profile
from ..schema import INPUT, OUTPUT
from .intervals import wilson

TOLERANCE: Final = 0.01


class SmallestCodec(NamedTuple):
    """A measured codec, the share of ``images`` on which its top-1 equals the full network's, and the lower end of that
    share's 95 % Wilson interval: with few images it says little."""

    measure: CutMeasurement
    agreement: float
    low: float
    images: int


def smallest_codec(
    profile: Profile,
    split_point: str,
    tolerance: float = TOLERANCE,
    class_ids: Iterable[int] | None = None,
) -> SmallestCodec | None:
    """The measured codec with the fewest bytes whose top-1 agreement is at least ``1 - tolerance``; ``None`` where no
    measured codec is. Ties go to the one encoded faster, then by name.

    Parameters: ``split_point``, by any of its names, `input` included; ``class_ids``, the classes whose images count
    (default: all). Raises UnknownSplitPointError, UnknownClassError, QueryError for a tolerance outside [0, 1].
    """
    if not 0 <= tolerance <= 1:
        raise QueryError(f"tolerance: expected 0 to 1, got {tolerance}")
    if split_point == OUTPUT:
        raise UnknownSplitPointError(f"at {OUTPUT!r} nothing is sent: no codec is used there")
    name = (
        INPUT
        if split_point == INPUT
        else profile.split_points[profile.point_index(split_point)].name
    )
    rows = profile.class_rows(class_ids)
    found = []
    for measure in profile.measurements:
        images = int(measure.images[rows].sum())
        agreeing = int(measure.agreeing[rows].sum())
        # The sum of rounded shares: 0.99 of 100 images is 99 of them.
        if (
            measure.split_point == name
            and images > 0
            and agreeing >= (1 - tolerance) * images - 1e-9
        ):
            found.append(
                SmallestCodec(
                    measure, agreeing / images, wilson(agreeing / images, images)[0], images
                )
            )
    return min(
        found, key=lambda s: (s.measure.nbytes, s.measure.encode_ms, s.measure.codec), default=None
    )
