from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode

from isplit_plugin import image as im
from isplit_plugin.errors import ArtifactError, ImageError
from isplit_plugin.schema import Preprocessing

PRE = Preprocessing(crop=(24, 24), resize=32)


def photo(width: int, height: int, mode: str = "RGB", seed: int = 0) -> PIL.Image.Image:
    """A photo that JPEG changes little, and that a shift by one pixel changes visibly."""
    rng = np.random.default_rng(seed)
    small = PIL.Image.fromarray(
        rng.integers(0, 256, (max(height // 3, 1), max(width // 3, 1), 3), dtype=np.uint8)
    )
    return small.resize((width, height), PIL.Image.Resampling.BICUBIC).convert(mode)


def encoded(image: PIL.Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def oracle(image: PIL.Image.Image, pre: Preprocessing) -> np.ndarray:
    """The same steps in torchvision."""
    steps = (
        [] if pre.resize is None else [T.Resize(pre.resize, InterpolationMode(pre.interpolation))]
    )
    steps += [T.CenterCrop(pre.crop), T.ToTensor(), T.Normalize(pre.mean, pre.std)]
    return T.Compose(steps)(image.convert(pre.mode)).numpy()


@pytest.mark.parametrize(
    "size",
    [
        (32, 32),
        (33, 47),
        (101, 57),
        (57, 101),
        (7, 5),
        (24, 300),
        (23, 24),
        (1, 1),
        (31, 20),
        (640, 427),
    ],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(
    ("resize", "crop"), [(32, (24, 24)), (None, (24, 24)), (20, (25, 31)), (33, (24, 17))]
)
def test_equals_torchvision(
    size: tuple[int, int], interpolation: str, resize: int | None, crop: tuple[int, int]
) -> None:
    pre = Preprocessing(crop=crop, resize=resize, interpolation=interpolation)
    np.testing.assert_array_equal(im.preprocess(photo(*size), pre), oracle(photo(*size), pre))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.one_of(st.none(), st.integers(1, 60)),
    st.integers(1, 60),
    st.data(),
)
def test_equals_torchvision_for_any_size(
    width: int, height: int, resize: int | None, crop: int, data: st.DataObject
) -> None:
    pre = Preprocessing(crop=(crop, data.draw(st.integers(1, 60))), resize=resize)
    np.testing.assert_array_equal(
        im.preprocess(photo(width, height), pre), oracle(photo(width, height), pre)
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "RGBA", "LA", "P", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize("wanted", ["RGB", "L"])
def test_every_colour_mode(mode: str, wanted: str) -> None:
    picture = photo(50, 40).convert(mode)
    pre = Preprocessing(crop=(24, 24), resize=32, mode=wanted)
    if wanted == "L":
        pre = replace(pre, mean=(0.4,), std=(0.3,))
    out = im.preprocess(picture, pre)
    assert out.shape == pre.shape
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, oracle(picture, pre))


def test_palette_with_transparency_is_read_without_a_warning() -> None:
    picture = photo(40, 40).convert("P")
    data = encoded(picture, transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = im.preprocess(data, PRE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(out, oracle(PIL.Image.open(io.BytesIO(data)), PRE))


def test_sixteen_bit_greyscale_is_scaled_and_not_clipped() -> None:
    deep = (np.linspace(0, 1, 32 * 32).reshape(32, 32) * 65535).astype(np.uint16)
    shallow = PIL.Image.fromarray((deep >> 8).astype(np.uint8))
    data = encoded(PIL.Image.fromarray(deep))
    np.testing.assert_array_equal(im.preprocess(data, PRE), oracle(shallow, PRE))
    np.testing.assert_array_equal(
        im.preprocess(PIL.Image.fromarray(deep.astype(np.int32)), PRE), oracle(shallow, PRE)
    )


@pytest.mark.parametrize("values", [-1, 65536])
def test_deeper_than_sixteen_bits_is_refused(values: int) -> None:
    with pytest.raises(ImageError, match="at most 16 bits"):
        im.preprocess(PIL.Image.fromarray(np.full((32, 32), values, dtype=np.int32)), PRE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(orientation: int, format: str) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(60, 40), format, exif=exif)
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
    assert upright.size == ((60, 40) if orientation < 5 else (40, 60))
    np.testing.assert_array_equal(im.preprocess(data, PRE), oracle(upright, PRE))
    np.testing.assert_array_equal(
        im.preprocess(PIL.Image.open(io.BytesIO(data)), PRE), oracle(upright, PRE)
    )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_a_photo_with_broken_exif_is_read() -> None:
    data = encoded(photo(60, 40), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)
    np.testing.assert_array_equal(
        im.preprocess(data, PRE), oracle(PIL.Image.open(io.BytesIO(data)), PRE)
    )


def test_stereo_photo_is_read_as_its_first_picture() -> None:
    data = encoded(photo(60, 40), "MPO", save_all=True, append_images=[photo(60, 40, seed=1)])
    np.testing.assert_array_equal(
        im.preprocess(data, PRE), oracle(PIL.Image.open(io.BytesIO(data)), PRE)
    )


def test_all_kinds_of_images_give_the_same_input(tmp_path: Path) -> None:
    picture = photo(50, 40)
    data = encoded(picture)
    path = tmp_path / "a photo.png"
    path.write_bytes(data)
    expected = oracle(picture, PRE)
    pixels = np.asarray(picture)
    for way in (
        picture,
        data,
        bytearray(data),
        memoryview(data),
        path,
        str(path),
        pixels,
        np.asfortranarray(pixels),
    ):
        np.testing.assert_array_equal(im.preprocess(way, PRE), expected)
    grey = np.asarray(picture.convert("L"))
    for way in (grey, grey[:, :, None]):
        np.testing.assert_array_equal(im.preprocess(way, PRE), oracle(picture.convert("L"), PRE))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM"])
def test_formats(format: str) -> None:
    data = encoded(photo(50, 40), format)
    np.testing.assert_array_equal(
        im.preprocess(data, PRE), oracle(PIL.Image.open(io.BytesIO(data)), PRE)
    )


def test_preprocessed_array_passes_untouched() -> None:
    array = np.random.default_rng(0).normal(size=PRE.shape).astype(np.float32)
    assert im.preprocess(array, PRE) is array
    np.testing.assert_array_equal(im.preprocess(array.astype(">f4"), PRE), array)
    assert im.preprocess(array.astype(">f4"), PRE).dtype == np.dtype("<f4")


def test_jpeg_of_the_crop_is_close_to_the_crop() -> None:
    ramp = np.linspace(0, 255, 24 * 24, dtype=np.uint8).reshape(24, 24)
    cropped = im.crop(np.stack([ramp, ramp.T, ramp[::-1]], axis=2), Preprocessing(crop=(24, 24)))
    data = im.to_jpeg(cropped)
    again = im.load(data)
    assert again.size == cropped.size == (24, 24)
    assert np.abs(np.asarray(again, dtype=int) - np.asarray(cropped, dtype=int)).mean() < 4
    assert len(im.to_jpeg(cropped, quality=20)) < len(data)


def png(width: int, height: int) -> bytes:
    """A PNG file whose header announces a size that its data does not fill."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )


BAD = {
    "nothing": (b"", "no bytes"),
    "text": (b"not an image at all", "6e 6f 74"),
    "truncated jpeg": (encoded(photo(90, 90), "JPEG")[:-300], "broken JPEG"),
    "truncated png": (encoded(photo(90, 90))[:-300], "broken PNG"),
    "half a header": (encoded(photo(9, 9), "JPEG")[:20], "image"),
    "bomb": (png(9000, 9000), "9000x9000"),
    "bomb beyond Pillow's warning": (png(12000, 12000), "pixels"),
    "bomb beyond Pillow's error": (png(60000, 60000), "pixels"),
    "nan": (
        np.full(PRE.shape, np.nan, dtype=np.float32),
        f"{24 * 24 * 3} of {24 * 24 * 3} values are not finite",
    ),
    "one infinity": (
        np.pad(np.full((1, 1, 1), np.inf, dtype=np.float32), ((0, 2), (0, 23), (0, 23))),
        "1 of 1728",
    ),
    "float64": (np.zeros(PRE.shape), "float64"),
    "wrong shape": (np.zeros((24, 24, 3), dtype=np.float32), r"\(24, 24, 3\)"),
    "int array": (np.zeros((24, 24, 3), dtype=np.int64), "int64"),
    "bool array": (np.zeros((24, 24), dtype=bool), "bool"),
    "four channels": (np.zeros((24, 24, 4), dtype=np.uint8), r"\(24, 24, 4\)"),
    "channels first": (np.zeros((3, 24, 24), dtype=np.uint8), r"\(3, 24, 24\)"),
    "a batch": (np.zeros((1, 24, 24, 3), dtype=np.uint8), r"\(1, 24, 24, 3\)"),
    "empty array": (np.zeros((0, 24, 3), dtype=np.uint8), "24x0"),
    "huge array": (np.broadcast_to(np.zeros((1, 1), dtype=np.uint8), (9000, 9000)), "9000x9000"),
    "tensor": (torch.zeros(3, 24, 24), "Tensor"),
    "none": (None, "NoneType"),
    "float image": (PIL.Image.fromarray(np.zeros((24, 24), dtype=np.float32)), "floating point"),
    "a thread": (photo(1, 60000), "too long and thin"),
    "no file": (Path("/no/such/file.jpg"), "No such file"),
    "directory": ("/", "regular file"),
    "device": ("/dev/zero", "regular file"),
    "nul in the name": ("a\0b", "null"),
}


@pytest.mark.parametrize("name", BAD)
def test_the_error_of_a_bad_image_describes_it(name: str) -> None:
    image, message = BAD[name]
    pre = Preprocessing(crop=(24, 24), resize=256) if name == "a thread" else PRE
    with pytest.raises(ImageError, match=message):
        im.preprocess(image, pre)  # type: ignore[arg-type]


def test_the_limit_holds_where_pillow_only_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError, match="12000x12000"):
            im.load(png(12000, 12000))


def test_limits(tmp_path: Path) -> None:
    data = encoded(photo(40, 30))
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    for way in (data, path):
        assert im.load(way, max_bytes=len(data), max_pixels=1200).size == (40, 30)
        with pytest.raises(ImageError, match=f"{len(data) - 1} bytes"):
            im.load(way, max_bytes=len(data) - 1)
        with pytest.raises(ImageError, match="40x30 pixels, more than the 1199"):
            im.load(way, max_pixels=1199)


def test_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="regular file"):
        im.load(tmp_path / "pipe")


def test_truncated_pillow_image_of_the_caller() -> None:
    with pytest.raises(ImageError, match="broken JPEG"):
        im.load(PIL.Image.open(io.BytesIO(encoded(photo(90, 90), "JPEG")[:-300])))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM"]), st.data())
def test_damaged_files_raise_only_image_errors(format: str, data: st.DataObject) -> None:
    raw = bytearray(encoded(photo(20, 16), format))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about some damage and reads on
        try:
            out = im.preprocess(bytes(raw), PRE)
        except ImageError:
            return
    assert out.shape == PRE.shape
    assert np.isfinite(out).all()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_noise_raises_only_image_errors(raw: bytes) -> None:
    with pytest.raises(ImageError):
        im.load(raw)


def test_wrong_preprocessing_is_another_error_than_a_wrong_image() -> None:
    with pytest.raises(ArtifactError, match="lanczos"):
        im.preprocess(photo(9, 9), Preprocessing(crop=(8, 8), interpolation="lanczos"))
    with pytest.raises(ArtifactError, match="CMYK"):
        im.preprocess(photo(9, 9), Preprocessing(crop=(8, 8), mode="CMYK"))
    with pytest.raises(ArtifactError, match="needs 1 values of mean and std, got 3 and 3"):
        im.preprocess(photo(9, 9), Preprocessing(crop=(8, 8), mode="L"))


def test_normalize_refuses_another_size_than_the_crop() -> None:
    with pytest.raises(ImageError, match="24x24, got RGB of 25x24"):
        im.normalize(photo(25, 24), PRE)
    with pytest.raises(ImageError, match="got L of 24x24"):
        im.normalize(photo(24, 24, "L"), PRE)


def test_jpeg_refuses_what_jpeg_cannot_hold() -> None:
    with pytest.raises(ImageError, match="RGBA"):
        im.to_jpeg(photo(9, 9, "RGBA"))


def test_the_callers_image_is_left_alone() -> None:
    picture = photo(50, 40)
    before = picture.tobytes()
    pixels = np.array(picture)
    im.preprocess(picture, PRE)
    im.preprocess(pixels, Preprocessing(crop=(40, 50)))
    assert picture.tobytes() == before
    assert pixels.tobytes() == before


def test_importing_does_not_import_torch() -> None:
    code = (
        "import sys, isplit_plugin.image\n"
        "assert not {'torch', 'torchvision', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
