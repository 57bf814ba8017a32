"""Photos as files: the formats and qualities in which a device sends the crop at `input`.

Pillow writes them. A Pillow without WebP or AVIF writes the others: :func:`can_write` says which.
"""

from __future__ import annotations

import io
from typing import Any, Final

import PIL.features
import PIL.Image

from .errors import ImageError, MissingCodecError, UnknownCodecError
from .schema import MAX_QUALITY, PHOTO_CODECS

__all__ = ["PHOTOS", "can_write", "write_photo"]

PHOTOS: Final = (
    *("jpeg@98", "jpeg@95", "jpeg@90", "jpeg@80"),
    *("webp@98", "webp@95", "webp@90", "webp@75"),
    *("avif@98", "avif@95", "avif@90", "avif@80", "avif@70"),
)
"""The codings that are measured and accepted by default."""

_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "jpeg": {"optimize": True},
    "webp": {"method": 2},
    "avif": {"speed": 10, "subsampling": "4:4:4", "max_threads": 1},
}
"""Pillow's options: the effort that pays, by measured bytes and time (docs/explanation/codecs.md).

A crop is too small for several threads, and with one its time is that of a core."""


def can_write(codec: str) -> bool:
    """Whether this process can write photos so: codec or coding, ``avif`` or ``avif@80``."""
    name = codec.partition("@")[0]
    if name not in PHOTO_CODECS:
        return False
    return name == "jpeg" or bool(PIL.features.check(name))


def write_photo(cropped: PIL.Image.Image, codec: str, quality: int) -> bytes:
    """A crop as the file that a device sends.

    Parameters:
        codec: one of ``schema.PHOTO_CODECS``.
        quality: 0 to 99, as Pillow counts it for this format.

    Raises:
        UnknownCodecError: there is no such codec or quality.
        MissingCodecError: this Pillow cannot write the format.
        ImageError: the format does not have the image's mode.
    """
    if codec not in PHOTO_CODECS or not 0 <= quality <= MAX_QUALITY:
        raise UnknownCodecError.of(f"{codec}@{quality}", PHOTOS)
    if not can_write(codec):
        writable = [name for name in PHOTO_CODECS if can_write(name)]
        raise MissingCodecError(
            f"codec {codec!r}: Pillow {PIL.__version__} writes {', '.join(writable)} here; "
            "install a Pillow that has it (the wheels of 11.3 and newer do)",
            codec=codec,
            known=writable,
        )
    buffer = io.BytesIO()
    try:
        cropped.save(buffer, codec.upper(), quality=quality, **_OPTIONS[codec])
    except (OSError, ValueError) as error:
        raise ImageError(
            f"cannot write {cropped.mode} of {cropped.width}x{cropped.height} as "
            f"{codec.upper()}: {error}"
        ) from error
    return buffer.getvalue()
