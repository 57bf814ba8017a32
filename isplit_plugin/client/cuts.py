"""Completes the cut of a request and checks it against the manifest."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ..errors import BundleError, UnknownCodecError, UnknownSplitPointError
from ..schema import IMAGE_CODECS, INPUT, NO_CODEC, OUTPUT, Cut, Manifest
from ..wire import codec_names, describe, unknown_codec

PHOTO_FILE: Final = Cut(INPUT, "file")
"""The photo as it is: the only cut without a head bundle."""
_PREFERRED: Final = ("uint8+zstd", "uint8", "fp16+zstd", "fp16")


def resolve(manifest: Manifest | None, default: Cut | None, cut: Cut | str | None) -> Cut:
    """Complete and check a cut.

    Parameters:
        manifest: of the head bundle, ``None`` without one.
        default: the cut for everything that is left out; by default the manifest's.
        cut: a cut, its text form, or a split point alone, which gets its usual codec.

    Raises:
        UnknownSplitPointError: the split point is not deployed.
        UnknownCodecError: the codec is not one of the split point's.
        QueryError: the text is not a cut.
        BundleError: without a manifest, the cut is not photo files.
    """
    if manifest is None:
        if cut not in (None, INPUT, PHOTO_FILE, str(PHOTO_FILE)):
            raise BundleError(
                f"cut {str(cut)[:100]!r} needs the head bundle (head='<model>.head.zip'); "
                f"without it only photo files can be sent: cut {str(PHOTO_FILE)!r}"
            )
        return PHOTO_FILE
    usual = default or manifest.default
    if cut is None:
        cut = usual
    if isinstance(cut, str) and ":" not in cut:
        name = _split_point(manifest, cut)
        return _with_usual_codec(name, _codecs(manifest, name), usual)
    if isinstance(cut, str):
        cut = Cut.parse(cut)
    name = _split_point(manifest, cut.split_point)
    codecs = _codecs(manifest, name)
    if cut.coding not in codecs and name == OUTPUT:
        raise UnknownCodecError(
            f"codec {cut.coding[:80]!r} at 'output', where nothing is sent: expected {NO_CODEC!r}"
        )
    if cut.coding not in codecs:
        raise unknown_codec(cut.coding, codecs, at=name)
    return replace(cut, split_point=name)


def refused(error: UnknownCodecError) -> UnknownCodecError:
    """The server's refusal of a codec, with the codecs of this client added to its message.

    Their names are in ``details["client"]``.
    """
    names = (*codec_names(), *IMAGE_CODECS)
    message = f"the server says: {error.message}; this client codes: {describe(names)}"
    return UnknownCodecError(message, **{**error.details, "client": list(names)})


def _with_usual_codec(split_point: str, codecs: tuple[str, ...], usual: Cut) -> Cut:
    keeps_codec = split_point == usual.split_point or split_point != INPUT
    if usual.coding in codecs and keeps_codec:
        return replace(usual, split_point=split_point)
    return Cut.of(split_point, codecs[0])


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


def _codecs(manifest: Manifest, split_point: str) -> tuple[str, ...]:
    """The codecs of a split point, the usual one first."""
    if split_point == OUTPUT:
        return (NO_CODEC,)
    if split_point == INPUT:
        return (*IMAGE_CODECS, *manifest.codecs)
    rank = {codec: number for number, codec in enumerate(_PREFERRED)}
    return tuple(sorted(manifest.codecs, key=lambda codec: rank.get(codec, len(rank))))
