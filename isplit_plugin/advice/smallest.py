"""The smallest codec at a split point that keeps enough of the answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from ..errors import QueryError, UnknownSplitPointError
from ..profile import CutMeasurement, Profile
from ..schema import INPUT, OUTPUT
from .intervals import wilson

TOLERANCE: Final = 0.01


class SmallestCodec(NamedTuple):
    """A measured codec that is within the tolerance.

    Attributes:
        agreement: the share of ``images`` on which the top-1 class equals the full network's.
        low: the lower end of its 95 % Wilson interval, which is far below for few images.
    """

    measurement: CutMeasurement
    agreement: float
    low: float
    images: int


def smallest_codec(
    profile: Profile,
    split_point: str,
    tolerance: float = TOLERANCE,
    class_ids: Iterable[int] | None = None,
) -> SmallestCodec | None:
    """The measured codec with the fewest bytes whose agreement is at least ``1 - tolerance``.

    Of codecs with equal bytes, the one that encodes faster is taken, then the first by name.
    ``None`` where no measured codec agrees often enough.

    Parameters:
        split_point: any of its names, or `input`.
        class_ids: the classes whose images count; by default all.

    Raises:
        UnknownSplitPointError: the profile has no such split point, or it is `output`.
        UnknownClassError: the profile has no images of a class.
        QueryError: the tolerance is outside 0 to 1.
    """
    if not 0 <= tolerance <= 1:
        raise QueryError(f"tolerance: expected 0 to 1, got {tolerance}")
    if split_point == OUTPUT:
        raise UnknownSplitPointError(f"at {OUTPUT!r} nothing is sent: no codec is used there")
    name = split_point
    if split_point != INPUT:
        name = profile.split_points[profile.point_index(split_point)].name
    rows = profile.class_rows(class_ids)
    codecs = []
    for measurement in profile.measurements:
        if measurement.split_point != name:
            continue
        images = int(measurement.images[rows].sum())
        agreeing = int(measurement.agreeing[rows].sum())
        # 1e-9 is for rounding: 0.99 of 100 images is 99 of them.
        if images > 0 and agreeing >= (1 - tolerance) * images - 1e-9:
            share = agreeing / images
            codecs.append(SmallestCodec(measurement, share, wilson(share, images)[0], images))
    return min(codecs, key=_preference, default=None)


def _preference(codec: SmallestCodec) -> tuple[float, float, str]:
    measurement = codec.measurement
    return measurement.nbytes, measurement.encode_ms, measurement.codec
