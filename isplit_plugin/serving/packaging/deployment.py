"""What a package deploys where the operator does not say: split points, and the cut a client starts
with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...advice import smallest_codec
from ...profile import Profile
from ...schema import IMAGE_CODECS, INPUT, Cut


def choose_deployed(profile: Profile) -> tuple[str, ...]:
    """The split points worth deploying, in execution order.

    They are the measured points whose smallest faithful cut takes fewer bytes than the faithful
    photo: the JPEG, or the file where the JPEG is not faithful. If there is no such point, they are
    the three points with the smallest faithful cuts; if no cut is faithful, those with the highest
    agreement.
    """
    measured = {m.split_point for m in profile.measurements}
    points = [point.name for point in profile.split_points if point.name in measured]
    smallest = {point: smallest_codec(profile, point) for point in points}
    nbytes = {name: cut.measurement.nbytes for name, cut in smallest.items() if cut is not None}
    photo = _faithful_photo_bytes(profile)
    below = tuple(point for point, size in nbytes.items() if size < photo)
    if below:
        return below
    if nbytes:
        chosen = sorted(nbytes, key=nbytes.__getitem__)[:3]
    else:
        agreement = {
            point: max(m.agreement for m in profile.measurements if m.split_point == point)
            for point in points
        }
        chosen = sorted(agreement, key=agreement.__getitem__, reverse=True)[:3]
    return tuple(point for point in points if point in chosen)


def _faithful_photo_bytes(profile: Profile) -> float:
    """Bytes of the photo as a JPEG, or as the file where no JPEG is faithful; inf if neither is."""
    for codec in IMAGE_CODECS:
        photos = tuple(m for m in profile.measurements if m.cut == Cut(INPUT, codec))
        cut = smallest_codec(replace(profile, measurements=photos), INPUT)
        if cut is not None:
            return cut.measurement.nbytes
    return float("inf")


def first_cut(profile: Profile, deployed: Sequence[str], codecs: Sequence[str]) -> Cut:
    """The cut that a client uses until it has asked.

    It is the earliest one whose plain codec takes fewer bytes than the JPEG, else the smallest
    faithful one, else the first.
    """
    plain = "uint8+zstd" if "uint8+zstd" in codecs else codecs[0]
    jpeg = profile.measurement(Cut(INPUT, "jpeg"))
    for point in deployed:
        measurement = profile.measurement(Cut(point, plain))
        if jpeg is not None and measurement is not None and measurement.nbytes < jpeg.nbytes:
            return Cut(point, plain)
    originals = {point.name for point in profile.split_points}
    smallest = [smallest_codec(profile, point) for point in deployed if point in originals]
    measurements = [
        s.measurement for s in smallest if s is not None and s.measurement.codec in codecs
    ]
    if not measurements:
        return Cut(deployed[0], plain)
    return min(measurements, key=lambda m: m.nbytes).cut
