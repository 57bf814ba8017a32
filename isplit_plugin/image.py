"""From a photo to the network's input: one preprocessing for device, server and profile.

The result equals torchvision's ``Resize(shorter side) -> CenterCrop -> ToTensor -> Normalize`` on a Pillow image, bit
for bit, without torch. Photos come from a hostile network, so everything is bounded: bytes before they are read,
pixels before they are decoded, and only formats that Pillow decodes itself (no Ghostscript).
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps

from .errors import ArtifactError, ImageError
from .schema import FloatArray, Preprocessing

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "Image",
    "crop",
    "load",
    "normalize",
    "preprocess",
    "read_file",
    "to_jpeg",
]

Image: TypeAlias = (
    "str | Path | bytes | bytearray | memoryview | PIL.Image.Image | npt.NDArray[np.generic]"
)
"""A path, the bytes of an image file, a Pillow image, or uint8 pixels (H, W, 3), (H, W, 1) or (H, W)."""

MAX_BYTES: Final = 64 * 1024 * 1024
"""Largest image file, in bytes."""
MAX_PIXELS: Final = 64_000_000
"""Largest image, in pixels: 192 MB as RGB. Above it, a file of a few KB could ask for gigabytes."""
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

_ORIENTATION: Final = 0x0112
_RESAMPLING: Final = {
    "nearest": PIL.Image.Resampling.NEAREST,
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "bicubic": PIL.Image.Resampling.BICUBIC,
}


def load(
    image: Image, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> PIL.Image.Image:
    """Decode an image whole and turn it upright (EXIF orientation). Of several frames the first counts.

    Raises ImageError, saying what came, for anything that is no readable image within the limits.
    """
    if isinstance(image, PIL.Image.Image):
        return _upright(image, "image", max_pixels)
    if isinstance(image, np.ndarray):
        return _from_array(image, max_pixels)
    if isinstance(image, (str, Path)):
        where, data = f"image {str(image)!r}", memoryview(read_file(image, max_bytes=max_bytes))
    elif isinstance(image, (bytes, bytearray, memoryview)):
        where, data = "image", memoryview(image)
    else:
        raise ImageError(
            f"expected a path, bytes, a Pillow image or a uint8 array, got {type(image).__qualname__}"
        )
    if data.nbytes > max_bytes:
        raise ImageError(f"{where}: more than the {max_bytes} bytes allowed")
    try:
        opened = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise ImageError(f"{where}: more than the {max_pixels} pixels allowed") from error
    except PIL.UnidentifiedImageError as error:
        begin = (
            f"{data.nbytes} bytes beginning {data.tobytes()[:8].hex(' ')}"
            if data.nbytes
            else "no bytes"
        )
        raise ImageError(f"{where}: expected {', '.join(FORMATS)}, got {begin}") from error
    except (
        Exception
    ) as error:  # whatever a decoder trips over in hostile bytes is the image's fault
        raise ImageError(f"{where}: unreadable ({type(error).__name__}: {error})") from error
    return _upright(opened, where, max_pixels)


def crop(image: Image, pre: Preprocessing) -> PIL.Image.Image:
    """The part of the image that the network sees: ``pre.mode`` pixels, resized and centre-cropped to ``pre.crop``.

    Images smaller than the crop are padded with black, as torchvision does. 16-bit greyscale is scaled to 8 bits
    (torchvision and Pillow clip it to white). Raises ImageError.
    """
    if pre.interpolation not in _RESAMPLING or pre.mode not in ("RGB", "L"):
        raise ArtifactError(
            f"preprocessing: expected interpolation {', '.join(_RESAMPLING)} and mode RGB or L, "
            f"got {pre.interpolation!r} and {pre.mode!r}"
        )
    picture = _to_mode(load(image), pre.mode)
    if pre.resize is not None:
        picture = _resize(picture, pre.resize, _RESAMPLING[pre.interpolation])
    height, width = pre.crop
    left, top = _offset(picture.width, width), _offset(picture.height, height)
    if (left, top) == (0, 0) and picture.size == (width, height):
        return picture
    return picture.crop((left, top, left + width, top + height))


def normalize(cropped: PIL.Image.Image, pre: Preprocessing) -> FloatArray:
    """Pixels to ``(x / 255 - mean) / std``, shape (C, H, W), float32. Raises ImageError where the size is another."""
    channels, height, width = pre.shape
    if cropped.mode != pre.mode or cropped.size != (width, height):
        raise ImageError(
            f"expected a {pre.mode} image of {width}x{height}, got {cropped.mode} of {cropped.width}x{cropped.height}"
        )
    if len(pre.mean) != channels or len(pre.std) != channels:
        raise ArtifactError(
            f"preprocessing: mode {pre.mode} needs {channels} values of mean and std, "
            f"got {len(pre.mean)} and {len(pre.std)}"
        )
    pixels = np.asarray(cropped).reshape(height, width, channels)
    out = np.empty((channels, height, width), dtype=np.float32)
    # In place, a plane at a time (it stays in the cache), in torchvision's order of operations: bit for bit equal.
    for channel, (mean, std) in enumerate(zip(pre.mean, pre.std, strict=True)):
        plane = out[channel]
        plane[...] = pixels[:, :, channel]
        plane /= np.float32(255)
        plane -= np.float32(mean)
        plane /= np.float32(std)
    return out


def preprocess(image: Image, pre: Preprocessing) -> FloatArray:
    """The network's input for one image, shape ``pre.shape`` (C, H, W), float32.

    A float32 array of that shape counts as already preprocessed and passes, once it is known to be finite.
    Raises ImageError.
    """
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        if image.dtype.newbyteorder("=") != np.float32 or image.shape != pre.shape:
            raise ImageError(
                f"expected a preprocessed float32 array of shape {pre.shape} or a uint8 image, "
                f"got {image.dtype} of shape {image.shape}"
            )
        array = np.ascontiguousarray(image, dtype=np.float32)
        finite = np.isfinite(array)
        if not finite.all():
            raise ImageError(
                f"preprocessed array: {array.size - int(finite.sum())} of {array.size} values not finite"
            )
        return array
    return normalize(crop(image, pre), pre)


def to_jpeg(cropped: PIL.Image.Image, quality: int = 90) -> bytes:
    """The crop as a JPEG file (4:2:0 chroma, Pillow's default): what a device sends when it does not split."""
    buffer = io.BytesIO()
    try:
        cropped.save(buffer, "JPEG", quality=quality)
    except (OSError, ValueError) as error:
        raise ImageError(
            f"cannot write {cropped.mode} of {cropped.width}x{cropped.height} as JPEG: {error}"
        ) from error
    return buffer.getvalue()


def read_file(path: str | Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a photo's file as they are, one more than ``max_bytes`` at most. Raises ImageError."""
    try:
        # A pipe or a device could block or never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError(f"image {str(path)!r}: not a regular file")
        with open(path, "rb") as file:
            return file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise ImageError(
            f"image {str(path)!r}: {getattr(error, 'strerror', None) or error}"
        ) from error


def _from_array(pixels: npt.NDArray[np.generic], max_pixels: int) -> PIL.Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype != np.uint8 or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    ):
        raise ImageError(
            f"expected uint8 of shape (H, W, 3) or (H, W), got {pixels.dtype} of shape {pixels.shape}"
        )
    _check_size((pixels.shape[1], pixels.shape[0]), "image", max_pixels)
    return PIL.Image.fromarray(pixels)


def _check_size(size: tuple[int, int], where: str, max_pixels: int) -> None:
    width, height = size
    if width <= 0 or height <= 0:
        raise ImageError(f"{where}: empty, {width}x{height} pixels")
    if width * height > max_pixels:
        raise ImageError(f"{where}: {width}x{height} pixels, more than the {max_pixels} allowed")


def _upright(image: PIL.Image.Image, where: str, max_pixels: int) -> PIL.Image.Image:
    _check_size(image.size, where, max_pixels)
    try:
        image.load()
    except Exception as error:  # the many decoders raise many types
        raise ImageError(
            f"{where}: broken {image.format or 'image'} file ({type(error).__name__}: {error})"
        ) from error
    try:
        turned = image.getexif().get(_ORIENTATION, 1) not in (None, 1)
        return PIL.ImageOps.exif_transpose(image) if turned else image
    except Exception:  # a photo with a broken EXIF block is still a photo
        return image


def _to_mode(picture: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    if picture.mode == mode:
        return picture
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        deep = np.asarray(picture)
        if picture.mode == "I" and (int(deep.min()) < 0 or int(deep.max()) > 0xFFFF):
            raise ImageError(
                f"expected at most 16 bits a pixel, got values from {deep.min()} to {deep.max()}"
            )
        picture = PIL.Image.fromarray((deep >> 8).astype(np.uint8))
    elif picture.mode == "F":
        raise ImageError("expected 8 or 16 bits a pixel, got floating point")
    elif picture.mode in ("P", "PA") and "transparency" in picture.info:
        picture = picture.convert(
            "RGBA"
        )  # Pillow warns about a palette with transparency otherwise
    try:
        return picture.convert(mode)
    except (OSError, ValueError) as error:
        raise ImageError(
            f"expected an image convertible to {mode}, got mode {picture.mode}"
        ) from error


def _resize(
    picture: PIL.Image.Image, shorter: int, resample: PIL.Image.Resampling
) -> PIL.Image.Image:
    width, height = picture.size
    # torchvision's rounding: the longer side is truncated.
    longer = int(shorter * max(width, height) / min(width, height))
    size = (shorter, longer) if width <= height else (longer, shorter)
    if size == picture.size:
        return picture
    # A 1 x 60,000 image would become 256 x 15 million.
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(
            f"image: {width}x{height} pixels is too long and thin to resize to {size[0]}x{size[1]}"
        )
    return picture.resize(size, resample)


def _offset(have: int, want: int) -> int:
    """Where the centre crop begins; negative where the image is padded. torchvision's rounding in both cases."""
    return round((have - want) / 2.0) if have >= want else -((want - have) // 2)
