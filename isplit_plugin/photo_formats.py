"""Formats of photo files: which are read where, and how a file's first bytes tell its format.

A server reads few formats, because each decoder is a surface for attacks. A device reads more,
because its files are its owner's. Names are those of Pillow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["DEVICE_FORMATS", "WIRE_FORMATS", "format_names", "how_to_convert", "photo_format"]

WIRE_FORMATS: Final = ("JPEG", "PNG", "WEBP", "AVIF")
"""What travels: a server reads these and no others."""
DEVICE_FORMATS: Final = (*WIRE_FORMATS, "GIF", "BMP", "TIFF", "PPM")
"""What a device reads. Where a file must travel, the last four become PNG."""

_SHOWN: Final = {"WEBP": "WebP", "PPM": "PNM"}
_STARTS: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"<svg", "SVG"),
)
_BRANDS: Final = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIC"),
    **dict.fromkeys((b"mif1", b"msf1"), "HEIF"),
}
"""Brands of ISO media files (ISO/IEC 23008-12), the general ones last."""


def photo_format(start: bytes) -> str | None:
    """The format of a file by its first bytes (64 are enough), or ``None`` where it is not known.

    It may be a format that nothing here can read, such as "HEIC".
    """
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[4:8] == b"ftyp":
        return _by_brand(start)
    if len(start) > 2 and start[:1] == b"P" and start[1:2] in b"123456" and start[2:3].isspace():
        return "PPM"
    return next((name for magic, name in _STARTS if start.startswith(magic)), None)


def format_names(formats: Sequence[str]) -> str:
    """Formats as a person reads them: "JPEG, PNG, WebP or AVIF"."""
    names = [_SHOWN.get(name, name) for name in formats]
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def how_to_convert(name: str) -> str:
    """What to do with a file of a format that is not read; empty where there is nothing to say."""
    if name in ("HEIC", "HEIF"):
        return "; convert it to JPEG, or open it with the package pillow-heif and pass the Pillow image"
    if name == "AVIF":
        return "; convert it to JPEG, or install a Pillow that reads AVIF (11.3 or newer from PyPI)"
    return "; convert it first"


def _by_brand(start: bytes) -> str | None:
    """The format of an ISO media file by its major and compatible brands."""
    length = min(int.from_bytes(start[:4], "big"), 64)
    brands = [start[8:12], *(start[at : at + 4] for at in range(16, length, 4))]
    return next((name for brand, name in _BRANDS.items() if brand in brands), None)
