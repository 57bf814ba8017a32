"""What a package deploys where the operator does not say: split points, and the cut a client starts
with.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...advice import best_photo, smallest_codec, smallest_faithful, winning_split_points
from ...profile import CutMeasurement, Profile
from ...schema import INPUT, PHOTO_FILE, Cut


def choose_deployed(profile: Profile, limit: int | None = None) -> tuple[str, ...]:
    """The split points worth deploying, in execution order.

    They are those that win on the grid of winners, each by enough to be worth its head
    (:func:`isplit_plugin.advice.winning_split_points`): against photo and `output`, and where none
    does against the photo alone, for devices that cannot run the whole network. Where times tell
    nothing, they are the measured points whose smallest faithful cut takes fewer bytes than the best
    faithful photo. If there is no such point, they are the three points with the smallest faithful
    cuts; if no cut is faithful, those with the highest agreement.

    Parameters:
        limit: at most so many.
    """
    winning = winning_split_points(profile, limit=limit)
    if not winning:
        winning = winning_split_points(profile, limit=limit, has_output=False)
    return winning or _by_bytes(profile, limit)


def _by_bytes(profile: Profile, limit: int | None) -> tuple[str, ...]:
    """The split points that send less than the photo; if there is none, the three that send least."""
    count = 3 if limit is None else min(limit, 3)
    measured = {m.split_point for m in profile.measurements}
    points = [point.name for point in profile.split_points if point.name in measured]
    smallest = {point: smallest_codec(profile, point) for point in points}
    nbytes = {name: cut.measurement.nbytes for name, cut in smallest.items() if cut is not None}
    photo = _photo_bytes(profile)
    below = [point for point, size in nbytes.items() if size < photo]
    if below:
        chosen = sorted(below, key=nbytes.__getitem__)[:limit]
    elif nbytes:
        chosen = sorted(nbytes, key=nbytes.__getitem__)[:count]
    else:
        agreement = {
            point: max(m.agreement for m in profile.measurements if m.split_point == point)
            for point in points
        }
        chosen = sorted(agreement, key=agreement.__getitem__, reverse=True)[:count]
    return tuple(point for point in points if point in chosen)


def first_cut(
    profile: Profile, deployed: Sequence[str], codecs: Sequence[str], photos: Sequence[str]
) -> Cut:
    """The cut that a client uses until it has asked: a faithful one where there is any.

    It is the smallest faithful cut of the earliest deployed split point where that takes fewer bytes
    than the best faithful photo; else the smallest faithful one of all deployed split points; else
    that photo; else the most accurate cut, and without measurements a photo.

    Parameters:
        deployed: the split points.
        codecs, photos: the accepted codings.
    """
    usual = usual_cuts(profile, deployed, codecs, photos)
    splits = [cut for cut in usual if cut.split_point in deployed]
    limit = _photo_bytes(profile)
    for cut in splits:
        if _nbytes(profile, cut) < limit:
            return cut
    if splits:
        return min(splits, key=lambda cut: _nbytes(profile, cut))
    if usual:
        return usual[0]
    accepted = [m for m in profile.measurements if _is_accepted(m.cut, deployed, codecs, photos)]
    return max(accepted, key=lambda m: (m.agreement, -m.nbytes)).cut if accepted else _any(photos)


def usual_cuts(
    profile: Profile, deployed: Sequence[str], codecs: Sequence[str], photos: Sequence[str]
) -> tuple[Cut, ...]:
    """What a cut means that leaves something out: the manifest's ``usual``.

    At `input` and at each deployed split point, the smallest faithful cut comes first, at `input` a
    photo. The smallest faithful quality of each codec that has several follows.
    """
    accepted = [m for m in profile.measurements if _is_accepted(m.cut, deployed, codecs, photos)]
    usual: list[Cut] = []
    for name in (INPUT, *deployed):
        here = [m for m in accepted if m.split_point == name]
        if name == INPUT:
            here = [m for m in here if m.cut.is_photo]
        usual += _smallest(here)
        for codec in dict.fromkeys(m.codec for m in here if m.cut.quality is not None):
            usual += _smallest([m for m in here if m.codec == codec])
    return tuple(dict.fromkeys(usual))


def _smallest(measurements: Sequence[CutMeasurement]) -> list[Cut]:
    smallest = smallest_faithful(measurements)
    return [] if smallest is None else [smallest.measurement.cut]


def _is_accepted(
    cut: Cut, deployed: Sequence[str], codecs: Sequence[str], photos: Sequence[str]
) -> bool:
    if cut.is_photo:
        return cut.coding in (*photos, PHOTO_FILE)
    return cut.split_point in (INPUT, *deployed) and cut.coding in codecs


def _nbytes(profile: Profile, cut: Cut) -> float:
    measurement = profile.measurement(cut)
    return float("inf") if measurement is None else measurement.nbytes


def _photo_bytes(profile: Profile) -> float:
    photo = best_photo(profile)
    return float("inf") if photo is None else photo.measurement.nbytes


def _any(photos: Sequence[str]) -> Cut:
    return Cut.of(INPUT, photos[0] if photos else PHOTO_FILE)
