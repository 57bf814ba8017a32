"""Completes the cut of a request and checks it against the manifest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ..errors import (
    BundleError,
    NetworkMismatchError,
    UnknownCodecError,
    UnknownSplitPointError,
)
from ..photo_codecs import can_write
from ..schema import (
    IMAGE_CODECS,
    INPUT,
    NO_CODEC,
    OUTPUT,
    PHOTO_FILE,
    Cut,
    Manifest,
    Recommendation,
)
from ..wire import codec_names, describe, unknown_codec

_LOGGER = logging.getLogger("isplit.client")
WHOLE_PHOTO: Final = Cut(INPUT, PHOTO_FILE)
"""The photo as it is: the only cut without a head bundle."""
_PREFERRED: Final = ("uint8+zstd", "uint8", "fp16+zstd", "fp16")


def resolve(manifest: Manifest | None, default: Cut | None, cut: Cut | str | None) -> Cut:
    """Complete and check a cut.

    Parameters:
        manifest: of the head bundle, ``None`` without one.
        default: the cut for everything that is left out; by default the manifest's.
        cut: a cut, its text form, or a split point alone, which gets its usual codec. A codec
            without one of its qualities gets its usual quality. A photo in a form that nobody named
            is one that this device can write (:func:`writable`).

    Raises:
        UnknownSplitPointError: the split point is not deployed.
        UnknownCodecError: the codec, or its quality, is not one of the split point's.
        QueryError: the text is not a cut.
        BundleError: without a manifest, the cut is not photo files.
    """
    if manifest is None:
        if cut not in (None, INPUT, WHOLE_PHOTO, str(WHOLE_PHOTO)):
            raise BundleError(
                f"cut {str(cut)[:100]!r} needs the head bundle (head='<model>.head.zip'); "
                f"without it only photo files can be sent: cut {str(WHOLE_PHOTO)!r}"
            )
        return WHOLE_PHOTO
    usual = default or manifest.default
    if cut is None:
        return writable(manifest, _complete(manifest, usual))
    if isinstance(cut, str) and ":" not in cut:
        return writable(manifest, _usual_cut(manifest, _split_point(manifest, cut), usual))
    return _complete(manifest, cut)


def writable(manifest: Manifest | None, cut: Cut) -> Cut:
    """The cut; where this device cannot write that photo, the usual one of those that it can.

    A Pillow without AVIF or WebP cannot. The last resort is the file as it is.
    """
    if manifest is None or writes(cut):
        return cut
    photos = sorted((Cut.of(INPUT, coding) for coding in manifest.photos), reverse=True)
    others = (other for other in (*manifest.usual, *photos) if can_write(other.codec))
    other = next(others, WHOLE_PHOTO)
    _LOGGER.warning("this Pillow cannot write %s: photos are sent as %s", cut.coding, other.coding)
    return other


def writes(cut: Cut) -> bool:
    """Whether this device can write the photo of a cut; true where none is written."""
    return not cut.is_photo or cut.codec == PHOTO_FILE or can_write(cut.codec)


def recommended(manifest: Manifest | None, recommendation: Recommendation) -> Cut:
    """The cut of a recommendation, in a form that this device can write (:func:`writable`).

    Raises as :func:`resolve`, and NetworkMismatchError for a recommendation for another network.
    """
    if manifest is not None and recommendation.network_hash != manifest.network_hash:
        raise NetworkMismatchError(
            f"the head belongs to network {manifest.network_hash}, the recommendation is for "
            f"{recommendation.network_hash}",
            head=manifest.network_hash,
            tail=recommendation.network_hash,
        )
    return writable(manifest, resolve(manifest, None, recommendation.cut))


def _complete(manifest: Manifest, cut: Cut | str) -> Cut:
    if isinstance(cut, str):
        cut = Cut.parse(cut)
    cut = replace(cut, split_point=_split_point(manifest, cut.split_point))
    codings = _codings(manifest, cut.split_point)
    if cut.quality is None and cut.codec not in codings:
        cut = _with_usual_quality(manifest, cut, codings)
    if cut.coding not in codings and cut.split_point == OUTPUT:
        raise UnknownCodecError(
            f"codec {cut.coding[:80]!r} at 'output', where nothing is sent: expected {NO_CODEC!r}"
        )
    if cut.coding not in codings:
        raise unknown_codec(cut.coding, codings, at=cut.split_point)
    return cut


def refused(error: UnknownCodecError) -> UnknownCodecError:
    """The server's refusal of a codec, with the codecs of this client added to its message.

    Their names are in ``details["client"]``.
    """
    names = (*codec_names(), *IMAGE_CODECS)
    message = f"the server says: {error.message}; this client codes: {describe(names)}"
    return type(error)(message, **{**error.details, "client": list(names)})


def _usual_cut(manifest: Manifest, split_point: str, usual: Cut) -> Cut:
    """The cut that a split point alone means.

    It is ``usual`` where that is a cut there. Otherwise it is the manifest's usual cut there, and
    for a split point without one it keeps the codec of ``usual``, if that is no photo's.
    """
    codings = _codings(manifest, split_point)
    if usual.split_point == split_point:
        return _complete(manifest, usual)
    for cut in manifest.usual:
        if cut.split_point == split_point and cut.coding in codings:
            return cut
    if usual.coding in codings and split_point != INPUT:
        return replace(usual, split_point=split_point)
    return Cut.of(split_point, codings[0])


def _with_usual_quality(manifest: Manifest, cut: Cut, codings: Sequence[str]) -> Cut:
    """The cut with its codec's usual quality there; as it is where the codec has no qualities."""
    own = [Cut.of(cut.split_point, coding) for coding in codings]
    own = [other for other in own if other.codec == cut.codec and not other.is_refining]
    usual = [other for other in manifest.usual if other in own]
    # Without a usual one the highest, which loses least.
    return usual[0] if usual else max(own, default=cut)


def _split_point(manifest: Manifest, name: str) -> str:
    """The first name of a deployed split point."""
    if name in (INPUT, OUTPUT):
        return name
    names = (INPUT, *manifest.deployed, OUTPUT)
    try:
        first_name = manifest.split_point(name).name
    except UnknownSplitPointError:
        raise UnknownSplitPointError.of(name, names) from None
    if first_name not in {manifest.split_point(d).name for d in manifest.deployed}:
        raise UnknownSplitPointError(
            f"split point {first_name!r} is not deployed; deployed: {', '.join(names)}",
            known=list(names),
        )
    return first_name


def _codings(manifest: Manifest, split_point: str) -> tuple[str, ...]:
    """The codings of a split point, the usual one first where the manifest names none."""
    if split_point == OUTPUT:
        return (NO_CODEC,)
    codecs = manifest.codings(split_point)
    if split_point == INPUT:
        return (*manifest.photos, PHOTO_FILE, *codecs)
    rank = {codec: number for number, codec in enumerate(_PREFERRED)}
    ranked = sorted(codecs, key=lambda codec: rank.get(codec, len(rank)))
    return (*ranked, *manifest.refining(split_point))
