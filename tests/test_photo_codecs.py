"""Photos as files: formats, qualities, and a Pillow that lacks one."""

from __future__ import annotations

import numpy as np
import PIL.features
import PIL.Image
import pytest

from isplit_plugin import image as im
from isplit_plugin.errors import ImageError, MissingCodecError, UnknownCodecError
from isplit_plugin.photo_codecs import PHOTOS, can_write, write_photo
from isplit_plugin.schema import INPUT, PHOTO_CODECS, Cut

MAGIC = {"jpeg": b"\xff\xd8\xff", "webp": b"WEBP", "avif": b"ftypavif"}


def picture(mode: str = "RGB") -> PIL.Image.Image:
    """Smooth, with an edge."""
    x = np.linspace(0, 255, 64)
    pixels = np.stack([x[None] + 0 * x[:, None], x[:, None] + 0 * x[None], np.full((64, 64), 90)])
    pixels[:, 20:40, 20:40] = 255 - pixels[:, 20:40, 20:40]
    return PIL.Image.fromarray(pixels.transpose(1, 2, 0).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("coding", PHOTOS)
def test_a_photo_comes_back_much_as_it_was(coding: str, mode: str) -> None:
    cut = Cut.of(INPUT, coding)
    assert cut.quality is not None
    data = write_photo(picture(mode), cut.codec, cut.quality)
    assert MAGIC[cut.codec] in data[:32]
    assert write_photo(picture(mode), cut.codec, cut.quality) == data
    decoded = im.load(data).convert(mode)
    assert decoded.size == (64, 64)
    difference = np.asarray(decoded, float) - np.asarray(picture(mode), float)
    assert np.abs(difference).mean() < 6


@pytest.mark.parametrize("codec", PHOTO_CODECS)
def test_more_quality_is_more_bytes(codec: str) -> None:
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    sizes = [len(write_photo(noise, codec, quality)) for quality in (10, 40, 70, 95)]
    assert sizes == sorted(set(sizes))


def test_a_pillow_without_a_format_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.features, "check", lambda name: name != "avif")
    assert [codec for codec in PHOTO_CODECS if can_write(codec)] == ["jpeg", "webp"]
    assert not can_write("avif@80")
    with pytest.raises(MissingCodecError, match=r"'avif': Pillow .* writes jpeg, webp here"):
        write_photo(picture(), "avif", 80)


@pytest.mark.parametrize(("codec", "quality"), [("gif", 5), ("file", 5), ("jpeg", 100)])
def test_unknown_forms_are_refused(codec: str, quality: int) -> None:
    with pytest.raises(UnknownCodecError, match="known: jpeg@"):
        write_photo(picture(), codec, quality)
    assert not can_write("gif@5")


def test_a_mode_that_the_format_lacks_is_refused() -> None:
    with pytest.raises(ImageError, match="cannot write RGBA of 64x64 as JPEG"):
        write_photo(picture("RGBA"), "jpeg", 90)
