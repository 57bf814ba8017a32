"""Which codecs there are.

Built-in names::

    fp32 | fp16 | uint8          each also with +zstd
    q<2-8>[c][+rle]+zstd
    dct@<0-7>                    where a transform was fitted for the split point

Other packages add codecs as entry points of the group ``isplit.codecs``: a :class:`Codec`, or
several of them. Each is known under its own ``name``. A built-in name cannot be replaced.

Manifests, profiles and tensors name codings: the name of a codec, and for one with several
qualities a quality behind it, ``dct@3``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ..errors import UnknownCodecError
from ..registry import Registry
from ..schema import IMAGE_CODECS, MAX_QUALITY, NO_CODEC
from .codec import Codec
from .dct import DCT
from .entropy import WithZstd
from .linear import FAMILY
from .plain import PLAIN_CODECS, PlainCodec

CODECS: Final = (
    *("fp32", "fp32+zstd", "fp16", "fp16+zstd", "uint8", "uint8+zstd"),
    *("q6+zstd", "q4+zstd", "q4+rle+zstd", "q4c+zstd", "q3c+zstd", "q2c+zstd"),
)
"""The codecs that are measured and accepted by default: those that were the smallest within a
percentage point of agreement somewhere (docs/explanation/codecs.md)."""

_BUILT_IN: Final[dict[str, Codec]] = {
    codec.name: codec
    for codec in (
        *(form for plain in PLAIN_CODECS for form in (plain, WithZstd(plain))),
        *FAMILY,
        DCT,
    )
}
_FAMILY_PATTERN: Final = "q<2-8>[c][+rle]+zstd"
_RESERVED: Final = (*IMAGE_CODECS, NO_CODEC)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._+-]{0,63}")


def register(codec: Codec) -> None:
    """Add a codec to this process. It replaces one of the same name that is not built in.

    Raises ValueError for a built-in name, and for a name or qualities that a cut's text form cannot
    hold.
    """
    _check_codec(codec)
    if codec.name in _BUILT_IN:
        raise ValueError(f"the codec {codec.name!r} is built in and cannot be replaced")
    _CODECS[codec.name] = codec


def codec_names() -> tuple[str, ...]:
    """The activation codecs known in this process, those of other packages included.

    Those that need a transform, which not every split point has, are left out.
    """
    return tuple(name for name, codec in _CODECS.items() if not codec.needs_transform)


def needs_transform(coding: str) -> bool:
    """Whether a coding works only where a transform was fitted. Raises UnknownCodecError."""
    return find_coding(coding)[0].needs_transform


def is_plain(coding: str) -> bool:
    """Whether a coding writes one value after the other, so that a lost part costs its values only.

    Raises UnknownCodecError.
    """
    return isinstance(find_coding(coding)[0], PlainCodec)


def codings(names: Iterable[str] | None = None) -> tuple[str, ...]:
    """The codings of these codecs: ``dct`` stands for ``dct@1``, ``dct@2`` and so on.

    A codec without qualities, and a coding, stand for themselves. By default those of all activation
    codecs of this process. Raises UnknownCodecError.
    """
    every: list[str] = []
    for name in codec_names() if names is None else names:
        codec = _CODECS.get(name)
        if codec is None or not codec.qualities:
            find_coding(name)
            every.append(name)
        else:
            every += (f"{name}@{quality}" for quality in codec.qualities)
    return tuple(dict.fromkeys(every))


def is_codec(coding: str) -> bool:
    """Whether this process codes activations so: a codec without qualities, or codec and quality."""
    try:
        find_coding(coding)
    except UnknownCodecError:
        return False
    return True


def find_coding(coding: str) -> tuple[Codec, int | None]:
    """The codec and the quality of a coding such as ``uint8+zstd`` or ``dct@3``.

    Raises UnknownCodecError for an unknown codec, for a quality that the codec does not have, and
    where a codec has qualities but none is named.
    """
    name, mark, text = coding.partition("@")
    codec = _CODECS.get(name)
    if codec is None:
        names = (*codec_names(), *IMAGE_CODECS)
        raise UnknownCodecError(
            f"unknown codec {coding[:200]!r}; known: {describe(names)}", known=list(names)
        )
    if not codec.qualities and not mark:
        return codec, None
    for quality in codec.qualities:
        if text == str(quality):
            return codec, quality
    known = [f"{name}@{quality}" for quality in codec.qualities] or [name]
    raise UnknownCodecError(
        f"unknown quality: expected {describe(known)}, got {coding[:200]!r}", known=known
    )


def describe(names: Iterable[str]) -> str:
    """Codings for people: ``dct@1,2,3``. A complete ``q`` family becomes one pattern."""
    qualities: dict[str, list[str]] = {}
    for coding in dict.fromkeys(names):
        name, _, quality = coding.partition("@")
        qualities.setdefault(name, []).extend([quality] if quality else [])
    unique = [f"{name}@{','.join(of)}" if of else name for name, of in qualities.items()]
    family = {codec.name for codec in FAMILY}
    if family <= set(unique):
        unique = [name for name in unique if name not in family]
        unique.append(_FAMILY_PATTERN)
    return ", ".join(unique) or "none"


def unknown_codec(
    name: object, accepted: Iterable[str], known: Iterable[str] | None = None, *, at: str = ""
) -> UnknownCodecError:
    """The error for a codec that one of the two sides lacks.

    Parameters:
        name: The codec.
        accepted: What the tail accepts.
        known: What this side codes; ``None``: :func:`codec_names`.
        at: The split point, where the error is about one.
    """
    tail_names = list(accepted)
    own_names = list(codec_names() if known is None else known)
    return UnknownCodecError(
        f"unknown codec {str(name)[:200]!r}{f' at {at!r}' if at else ''}; "
        f"known: {describe(tail_names)} (accepted by the tail); "
        f"this side codes: {describe(own_names)}",
        known=tail_names,
        here=own_names,
    )


def _check_codec(codec: Codec) -> None:
    _check_name(codec.name)
    qualities = codec.qualities
    valid = all(type(q) is int and 0 <= q <= MAX_QUALITY for q in qualities)
    if not valid or list(qualities) != sorted(set(qualities)):
        raise ValueError(
            f"codec {codec.name!r}: expected ascending qualities from 0 to {MAX_QUALITY}, "
            f"got {qualities}"
        )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise ValueError(
            f"codec name {name!r}: expected 1 to 64 lower-case letters, digits and '._+-', "
            f"and none of {', '.join(_RESERVED)}"
        )


def _read_entry_point(_: str, value: object) -> dict[str, Codec]:
    """The codecs of an entry point. Raises TypeError, ValueError."""
    codecs = value if isinstance(value, list | tuple) else (value,)
    by_name: dict[str, Codec] = {}
    for codec in codecs:
        if not isinstance(codec, Codec):
            raise TypeError(f"expected a Codec or a sequence of them, got {type(codec).__name__}")
        _check_codec(codec)
        by_name[codec.name] = codec
    return by_name


_CODECS: Final[Registry[Codec]] = Registry("isplit.codecs", _read_entry_point)
_CODECS.update(_BUILT_IN)
