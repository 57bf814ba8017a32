"""Which codecs there are.

Built-in names::

    fp32 | fp16 | uint8          each also with +zstd
    q<2-8>[c][+rle]+zstd

Other packages add codecs as entry points of the group ``isplit.codecs``: a :class:`Codec`, or
several of them. Each is known under its own ``name``. A built-in name cannot be replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ..errors import UnknownCodecError
from ..registry import Registry
from ..schema import IMAGE_CODECS, NO_CODEC
from .codec import Codec
from .entropy import WithZstd
from .linear import FAMILY
from .plain import PLAIN_CODECS

CODECS: Final = (
    *("fp32", "fp32+zstd", "fp16", "fp16+zstd", "uint8", "uint8+zstd"),
    *("q6+zstd", "q4+zstd", "q4+rle+zstd", "q4c+zstd", "q3c+zstd", "q2c+zstd"),
)
"""The codecs that are measured and accepted by default: those that were the smallest within a
percentage point of agreement somewhere (docs/explanation/codecs.md)."""

_BUILT_IN: Final[dict[str, Codec]] = {
    codec.name: codec
    for codec in (*(form for plain in PLAIN_CODECS for form in (plain, WithZstd(plain))), *FAMILY)
}
_FAMILY_PATTERN: Final = "q<2-8>[c][+rle]+zstd"
_RESERVED: Final = (*IMAGE_CODECS, NO_CODEC)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._+-]{0,63}")


def register(codec: Codec) -> None:
    """Add a codec to this process. It replaces one of the same name that is not built in.

    Raises ValueError for a built-in name, and for one that a cut's text form cannot hold.
    """
    _check_name(codec.name)
    if codec.name in _BUILT_IN:
        raise ValueError(f"the codec {codec.name!r} is built in and cannot be replaced")
    _CODECS[codec.name] = codec


def codec_names() -> tuple[str, ...]:
    """The activation codecs known in this process, those of other packages included."""
    return tuple(_CODECS)


def is_codec(name: str) -> bool:
    """Whether this process knows an activation codec of this name."""
    return name in _CODECS


def find_codec(name: str) -> Codec:
    """The codec of a name. Raises UnknownCodecError."""
    codec = _CODECS.get(name)
    if codec is None:
        names = (*codec_names(), *IMAGE_CODECS)
        raise UnknownCodecError(
            f"unknown codec {name[:200]!r}; known: {describe(names)}", known=list(names)
        )
    return codec


def describe(names: Iterable[str]) -> str:
    """Codec names for people. The ``q`` family, where it is complete, becomes one pattern."""
    unique = list(dict.fromkeys(names))
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
        _check_name(codec.name)
        by_name[codec.name] = codec
    return by_name


_CODECS: Final[Registry[Codec]] = Registry("isplit.codecs", _read_entry_point)
_CODECS.update(_BUILT_IN)
