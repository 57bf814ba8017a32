"""Which formats of photos are read, on a device and from the network, and what the others are told."""

from __future__ import annotations

import io
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.features
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin import image as im
from isplit_plugin.client.photo_bytes import file_bytes
from isplit_plugin.errors import ImageError
from isplit_plugin.photo_formats import (
    DEVICE_FORMATS,
    WIRE_FORMATS,
    format_names,
    photo_format,
)


def encoded(name: str, size: tuple[int, int] = (20, 16), mode: str = "RGB") -> bytes:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).convert(mode).save(buffer, name)
    return buffer.getvalue()


def media_file(major: bytes, *compatible: bytes) -> bytes:
    """The start of an ISO media file of these brands."""
    brands = major + b"\0\0\0\0" + b"".join(compatible)
    return struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(200)


HEIC = media_file(b"heic", b"mif1", b"heic")
OTHERS = {
    "HEIC": [HEIC, media_file(b"mif1", b"heic"), media_file(b"heix")],
    "HEIF": [media_file(b"mif1", b"mif1")],
    "JPEG XL": [b"\xff\x0a" + bytes(50), b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50)],
    "JPEG 2000": [b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50)],
    "PDF": [b"%PDF-1.7\n"],
    "PostScript": [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"],
    "SVG": [b"<svg xmlns='http://www.w3.org/2000/svg'/>"],
    "Photoshop": [b"8BPS\0\1" + bytes(50)],
}


@pytest.mark.parametrize("name", DEVICE_FORMATS)
def test_a_device_reads_its_formats_and_a_server_fewer(name: str, tmp_path: Path) -> None:
    data = encoded(name)
    assert photo_format(data[:64]) == name
    assert im.load(data).size == (20, 16)
    if name in WIRE_FORMATS:
        assert im.load(data, formats=WIRE_FORMATS).size == (20, 16)
        assert file_bytes(data) is data
        return
    with pytest.raises(ImageError, match="expected JPEG, PNG, WebP or AVIF, got") as caught:
        im.load(data, formats=WIRE_FORMATS)
    assert caught.value.details["format"] == name
    (tmp_path / "photo").write_bytes(data)
    for way in (data, tmp_path / "photo", io.BytesIO(data)):  # it travels as PNG
        sent = file_bytes(way)
        assert photo_format(bytes(sent[:64])) == "PNG"
        np.testing.assert_array_equal(im.load(bytes(sent)), im.load(data))


@pytest.mark.parametrize("name", OTHERS)
def test_a_format_that_is_not_read_is_named(name: str) -> None:
    for data in OTHERS[name]:
        for formats in (DEVICE_FORMATS, WIRE_FORMATS):
            with pytest.raises(ImageError, match=f"expected JPEG.*, got {name}; ") as caught:
                im.load(data, formats=formats)
            assert caught.value.details == {"format": name}
        with pytest.raises(ImageError, match=f"got {name}"):
            file_bytes(data)


def test_heic_says_what_to_do() -> None:
    with pytest.raises(ImageError, match=r"convert it to JPEG, or open it with .* pillow-heif"):
        im.load(HEIC)


def test_avif_where_pillow_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded("AVIF")
    monkeypatch.setattr(PIL.features, "check", lambda name: name != "avif")
    with pytest.raises(
        ImageError, match=r"got AVIF; convert it .* install a Pillow that reads"
    ) as caught:
        im.load(data)
    assert "AVIF" not in caught.value.message.partition(", got")[0]


@pytest.mark.parametrize("name", WIRE_FORMATS)
def test_a_damaged_file_is_said_to_be_one(name: str) -> None:
    with pytest.raises(ImageError, match=f"damaged {format_names([name])}|broken|unreadable"):
        im.load(encoded(name)[:40], formats=WIRE_FORMATS)


@given(st.binary(max_size=80))
def test_any_start_of_a_file_has_a_format_or_none(start: bytes) -> None:
    for data in (start, b"\0\0\0\x20ftyp" + start, b"RIFF" + start):
        assert photo_format(data) is None or isinstance(photo_format(data), str)


def bombs() -> dict[str, bytes]:
    """Files of a few bytes to a few KB whose headers announce 14 to 268 megapixels times many."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    side = 16383
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64)))
    jpeg = bytearray(encoded("JPEG"))
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = struct.pack(">HH", side, side)
    still = encoded("WEBP")[12:]
    canvas = struct.pack("<I", side - 1)[:3] * 2
    shown = bytes(6) + struct.pack("<I", 19)[:3] + struct.pack("<I", 15)[:3] + bytes(4) + still
    body = (
        b"VP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + canvas
        + b"ANIM" + struct.pack("<I", 6) + bytes(6)
        + b"ANMF" + struct.pack("<I", len(shown)) + shown
    )  # fmt: skip
    avif = bytearray(encoded("AVIF"))
    extents = avif.index(b"ispe") + 8
    avif[extents : extents + 8] = struct.pack(">II", side, side)
    return {
        "PNG": png + chunk(b"IEND", b""),
        "JPEG": bytes(jpeg),
        "WEBP": b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body,
        "AVIF": bytes(avif),
    }


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", WIRE_FORMATS)
def test_a_decompression_bomb_is_refused_before_it_is_decoded(name: str) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match=r"pixels|unreadable|damaged|broken"):
        im.load(bombs()[name], formats=WIRE_FORMATS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 64 * 1024


@pytest.mark.parametrize(
    ("name", "per_pixel"), [("JPEG", 4), ("PNG", 4), ("WEBP", 16), ("AVIF", 10)]
)
def test_the_memory_of_decoders_is_bounded(name: str, per_pixel: int) -> None:
    data = encoded(name, (10, 8))
    assert im.load(data, max_decoding=80 * per_pixel, formats=WIRE_FORMATS).size == (10, 8)
    with pytest.raises(ImageError, match="10x8 pixels, more than the 79 allowed"):
        im.load(data, max_decoding=80 * per_pixel - 1, formats=WIRE_FORMATS)


class Trickle(io.RawIOBase):
    """A stream that gives a few bytes at a time, as a socket does."""

    def __init__(self, data: bytes) -> None:
        self._rest = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._rest.read(min(size, 7))


class Failing:
    def read(self, size: int, /) -> bytes:
        raise ConnectionError("gone")


class Endless:
    def __init__(self) -> None:
        self.given = 0

    def read(self, size: int, /) -> bytes:
        self.given += size
        return bytes(size)


def test_file_objects(tmp_path: Path) -> None:
    data = encoded("PNG")
    (tmp_path / "photo.png").write_bytes(b"prefix" + data)
    with open(tmp_path / "photo.png", "rb") as file:
        file.seek(6)  # it is read from where it stands
        ways = [io.BytesIO(data), Trickle(data), file]
        for way in ways:
            np.testing.assert_array_equal(im.load(way), im.load(data))
    assert im.read_once(data) is data
    assert im.read_once(tmp_path) is tmp_path


def test_file_objects_that_cannot_be_read() -> None:
    with pytest.raises(ImageError, match=r'expected bytes, as from open.path, "rb"., got str'):
        im.load(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"cannot be read .ConnectionError: gone"):
        im.load(Failing())
    closed = io.BytesIO(b"")
    closed.close()
    with pytest.raises(ImageError, match=r"cannot be read .ValueError"):
        im.load(closed)
    endless = Endless()
    with pytest.raises(ImageError, match="more than the 1000 bytes allowed"):
        im.load(endless, max_bytes=1000)
    assert endless.given == 1001
