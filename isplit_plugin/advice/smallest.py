"""The smallest codec at a split point that keeps enough of the answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..errors import QueryError, UnknownSplitPointError
from ..profile import CutMeasurement, Profile
from ..schema import INPUT, OUTPUT
from .faithful import TOLERANCE, Sample
from .intervals import wilson
from .live_view import I64


class SmallestCodec(NamedTuple):
    """A measured codec that is faithful: within the tolerance, as far as the photos can tell.

    Attributes:
        agreement: the share of ``images`` on which the top-1 class equals the full network's.
        low: the lower end of its 95 % Wilson interval, which is far below for few images.
        photos_needed: how many photos would decide whether it is within the tolerance, where these
            cannot; ``None`` where they do.
    """

    measurement: CutMeasurement
    agreement: float
    low: float
    images: int
    photos_needed: int | None = None


def smallest_codec(
    profile: Profile,
    split_point: str,
    tolerance: float = TOLERANCE,
    class_ids: Iterable[int] | None = None,
) -> SmallestCodec | None:
    """The faithful codec with the fewest bytes (:mod:`.faithful`).

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
    _check_tolerance(tolerance)
    if split_point == OUTPUT:
        raise UnknownSplitPointError(f"at {OUTPUT!r} nothing is sent: no codec is used there")
    name = split_point
    if split_point != INPUT:
        name = profile.split_points[profile.point_index(split_point)].name
    rows = profile.class_rows(class_ids)
    measured = (m for m in profile.measurements if m.split_point == name)
    return smallest_faithful(measured, rows, tolerance)


def best_photo(
    profile: Profile, tolerance: float = TOLERANCE, class_ids: Iterable[int] | None = None
) -> SmallestCodec | None:
    """The measured photo with the fewest bytes that is faithful, the rival of every split.

    It is a photo in any form that was measured, the file as it is among them. ``None`` where none
    is faithful. Parameters and errors: see :func:`smallest_codec`.
    """
    _check_tolerance(tolerance)
    photos = (m for m in profile.measurements if m.cut.is_photo)
    return smallest_faithful(photos, profile.class_rows(class_ids), tolerance)


def _check_tolerance(tolerance: float) -> None:
    if not 0 <= tolerance <= 1:
        raise QueryError(f"tolerance: expected 0 to 1, got {tolerance}")


def smallest_faithful(
    measurements: Iterable[CutMeasurement], rows: I64 | None = None, tolerance: float = TOLERANCE
) -> SmallestCodec | None:
    """The faithful one of these measurements with the fewest bytes; ``None`` where none is.

    ``rows``: the class rows whose images count; by default all.
    """
    codecs = []
    for measurement in measurements:
        sample = Sample.of(measurement, rows)
        if sample.faithful(tolerance):
            images = int(sample.photos)
            share = (images - int(sample.misses)) / images
            low = wilson(share, images)[0]
            needed = sample.photos_needed(tolerance)
            codecs.append(SmallestCodec(measurement, share, low, images, needed))
    return min(codecs, key=_preference, default=None)


def _preference(codec: SmallestCodec) -> tuple[float, float, str]:
    measurement = codec.measurement
    return measurement.nbytes, measurement.encode_ms, str(measurement.cut)
