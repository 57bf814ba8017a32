"""Which (split point, codec) a request uses: what was asked for, checked against what is served."""

from __future__ import annotations

from typing import Final, NamedTuple

from ..errors import BundleError, UnknownCodecError, UnknownSplitPointError
from ..schema import INPUT, OUTPUT, Manifest
from ..wire import IMAGE_CODECS, codec_names, describe, unknown_codec

NONE: Final = "none"
"""The codec of `output`, where nothing is sent."""
_PREFERRED: Final = ("uint8+zstd", "uint8", "fp16+zstd", "fp16")


class Pair(NamedTuple):
    """A split point by its first name, and a codec."""

    split_point: str
    codec: str


def resolve(
    manifest: Manifest | None, default: Pair | None, split_point: str | None, codec: str | None
) -> Pair:
    """Complete and check a pair.

    What is left out comes from ``default``, or from the manifest where there is none; a codec that does not go with
    the asked split point is replaced by the usual one there. Raises UnknownSplitPointError, UnknownCodecError, and
    BundleError for anything but photo files without a manifest.
    """
    if manifest is None:
        if split_point not in (None, INPUT) or codec not in (None, "file"):
            raise BundleError(
                f"{split_point or INPUT!r} as {codec or 'jpeg'!r} needs the head bundle (head='<model>.head.zip'); "
                "without it only photo files can be sent: split point 'input', codec 'file'"
            )
        return Pair(INPUT, "file")
    usual = default or Pair(*manifest.default)
    name = _split_point(manifest, usual.split_point if split_point is None else split_point)
    allowed = _codecs(manifest, name)
    if codec is None:
        codec = (
            usual.codec
            if usual.codec in allowed and (name == usual.split_point or name != INPUT)
            else allowed[0]
        )
    if codec not in allowed and name == OUTPUT:
        raise UnknownCodecError(
            f"codec {codec[:80]!r} at 'output', where nothing is sent: leave it out"
        )
    if codec not in allowed:
        raise unknown_codec(codec, allowed, at=name)
    return Pair(name, codec)


def _split_point(manifest: Manifest, asked: str) -> str:
    if asked in (INPUT, OUTPUT):
        return asked
    known = (INPUT, *manifest.deployed, OUTPUT)
    try:
        name = manifest.split_point(asked).name
    except UnknownSplitPointError:
        raise UnknownSplitPointError.of(asked, known) from None
    if name not in {manifest.split_point(d).name for d in manifest.deployed}:
        raise UnknownSplitPointError(
            f"split point {name!r} is not deployed; deployed: {', '.join(known)}", known=list(known)
        )
    return name


def refused(error: UnknownCodecError) -> UnknownCodecError:
    """The server's refusal of a codec, with what this client codes behind what the server knows; the names are in
    ``details["client"]``."""
    ours = (*codec_names(), *IMAGE_CODECS)
    message = f"the server says: {error.message}; this client codes: {describe(ours)}"
    return UnknownCodecError(message, **{**error.details, "client": list(ours)})


def _codecs(manifest: Manifest, split_point: str) -> tuple[str, ...]:
    """The codecs of a split point, the usual one first."""
    if split_point == OUTPUT:
        return (NONE,)
    if split_point == INPUT:
        return (*IMAGE_CODECS, *manifest.codecs)
    return tuple(
        sorted(
            manifest.codecs,
            key=lambda c: _PREFERRED.index(c) if c in _PREFERRED else len(_PREFERRED),
        )
    )
