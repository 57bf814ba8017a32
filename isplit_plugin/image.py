"""From a photo to the network's input: one preprocessing for device, server and profile.

The result equals torchvision's ``Resize(shorter side) -> CenterCrop -> ToTensor -> Normalize`` on a
Pillow image bit for bit, without torch. Photos can come from attackers, so bytes are limited before
they are read and pixels before they are decoded, and only listed formats are opened: on a device
``DEVICE_FORMATS``, from the network ``WIRE_FORMATS``.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import PIL.features
import PIL.Image
import PIL.ImageOps

from .errors import ArtifactError, ImageError
from .photo_formats import (
    DEVICE_FORMATS,
    WIRE_FORMATS,
    format_names,
    how_to_convert,
    photo_format,
)
from .schema import FloatArray, Preprocessing

__all__ = [
    "DEVICE_FORMATS",
    "MAX_BYTES",
    "MAX_DECODING",
    "MAX_PIXELS",
    "WIRE_FORMATS",
    "Image",
    "Readable",
    "crop",
    "load",
    "normalize",
    "preprocess",
    "read_file",
    "read_once",
    "to_jpeg",
]


class Readable(Protocol):
    """A file object: what ``open(path, "rb")``, ``io.BytesIO`` and an upload of a web form are."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        ...


Image: TypeAlias = (
    "str | Path | bytes | bytearray | memoryview | Readable | PIL.Image.Image "
    "| npt.NDArray[np.generic]"
)
"""A path, the bytes of an image file, a file object opened in binary mode, a Pillow image, or uint8
pixels of shape (H, W, 3), (H, W, 1) or (H, W)."""

MAX_BYTES: Final = 64 * 1024 * 1024
"""Largest image file, in bytes."""
MAX_PIXELS: Final = 64_000_000
"""Largest image, in pixels: 192 MB as RGB. Without it, a file of a few KB could take gigabytes."""

MAX_DECODING: Final = 512 * 1024 * 1024
"""The memory, in bytes, that decoding a photo from the network may take: 32 megapixels of WebP, 53
of AVIF."""

_DECODING_BYTES: Final = {"WEBP": 16, "AVIF": 10}
"""What a decoder takes for a pixel, measured with Pillow 13; 4 for all others."""
_CHUNK: Final = 1024 * 1024
_ORIENTATION: Final = 0x0112
_RESAMPLING: Final = {
    "nearest": PIL.Image.Resampling.NEAREST,
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "bicubic": PIL.Image.Resampling.BICUBIC,
}


def preprocess(image: Image, preprocessing: Preprocessing) -> FloatArray:
    """The network's input for one image: float32 of shape (C, H, W).

    A float32 array of that shape counts as preprocessed and is returned as it is, once its values
    are known to be finite.

    Raises ImageError.
    """
    if not (isinstance(image, np.ndarray) and image.dtype.kind == "f"):
        return normalize(crop(image, preprocessing), preprocessing)
    if image.dtype.newbyteorder("=") != np.float32 or image.shape != preprocessing.shape:
        raise ImageError(
            f"expected a preprocessed float32 array of shape {preprocessing.shape} or a uint8 "
            f"image, got {image.dtype} of shape {image.shape}"
        )
    array = np.ascontiguousarray(image, dtype=np.float32)
    finite = np.isfinite(array)
    if not finite.all():
        raise ImageError(
            f"preprocessed array: {array.size - int(finite.sum())} of {array.size} values are not "
            "finite"
        )
    return array


def load(
    image: Image,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    max_decoding: int | None = None,
    formats: Sequence[str] = DEVICE_FORMATS,
) -> PIL.Image.Image:
    """Decode an image completely and turn it upright (EXIF orientation).

    Of an animation, the first frame is taken. A file object is read from where it stands.

    Parameters:
        max_decoding: the most bytes that decoding may take, by the format and the size in the
            header. Decoders need more than the pixels: of 62 megapixels JPEG took 241 MB, AVIF 553
            and WebP 959.
        formats: the formats of files that are opened. What stands behind bytes from the network
            passes ``WIRE_FORMATS``.

    Raises ImageError for anything that is not a readable image within the limits. The error of a
    file in another format names that format, also as ``details["format"]``.
    """
    image = read_once(image, max_bytes=max_bytes)
    if isinstance(image, PIL.Image.Image):
        return _upright(image, "image", max_pixels)
    if isinstance(image, np.ndarray):
        return _from_array(image, max_pixels)
    name = "image"
    if isinstance(image, (str, Path)):
        name = f"image {str(image)!r}"
        data = memoryview(read_file(image, max_bytes=max_bytes))
    elif isinstance(image, (bytes, bytearray, memoryview)):
        data = memoryview(image)
    else:
        raise ImageError(
            "expected a path, bytes, a file object, a Pillow image or a uint8 array, got "
            f"{type(image).__qualname__}"
        )
    if data.nbytes > max_bytes:
        raise ImageError(f"{name}: more than the {max_bytes} bytes allowed")
    opened = _open(data, name, max_pixels, formats)
    if max_decoding is not None:
        per_pixel = _DECODING_BYTES.get(str(opened.format), 4)
        max_pixels = min(max_pixels, max_decoding // per_pixel)
    return _upright(opened, name, max_pixels)


def crop(image: Image, preprocessing: Preprocessing) -> PIL.Image.Image:
    """The part of an image that the network sees: resized, centre-cropped, in the network's mode.

    Images smaller than the crop are padded with black, as torchvision does. 16-bit greyscale is
    scaled to 8 bits (torchvision and Pillow clip it to white).

    Raises:
        ImageError: the image cannot be read, or cannot be converted to the mode.
        ArtifactError: the preprocessing has an unknown mode or interpolation.
    """
    interpolation = preprocessing.interpolation
    if interpolation not in _RESAMPLING or preprocessing.mode not in ("RGB", "L"):
        raise ArtifactError(
            f"preprocessing: expected interpolation {', '.join(_RESAMPLING)} and mode RGB or L, "
            f"got {interpolation!r} and {preprocessing.mode!r}"
        )
    picture = _to_mode(load(image), preprocessing.mode)
    if preprocessing.resize is not None:
        picture = _resize(picture, preprocessing.resize, _RESAMPLING[interpolation])
    height, width = preprocessing.crop
    left = _crop_offset(picture.width, width)
    top = _crop_offset(picture.height, height)
    if (left, top) == (0, 0) and picture.size == (width, height):
        return picture
    return picture.crop((left, top, left + width, top + height))


def normalize(cropped: PIL.Image.Image, preprocessing: Preprocessing) -> FloatArray:
    """The pixels of a crop as ``(x / 255 - mean) / std``: float32 of shape (C, H, W).

    Raises ImageError if the crop has another size or mode, ArtifactError if the preprocessing does
    not have one mean and standard deviation for each channel.
    """
    channels, height, width = preprocessing.shape
    if cropped.mode != preprocessing.mode or cropped.size != (width, height):
        raise ImageError(
            f"expected a {preprocessing.mode} image of {width}x{height}, "
            f"got {cropped.mode} of {cropped.width}x{cropped.height}"
        )
    if len(preprocessing.mean) != channels or len(preprocessing.std) != channels:
        raise ArtifactError(
            f"preprocessing: mode {preprocessing.mode} needs {channels} values of mean and std, "
            f"got {len(preprocessing.mean)} and {len(preprocessing.std)}"
        )
    pixels = np.asarray(cropped).reshape(height, width, channels)
    array = np.empty((channels, height, width), dtype=np.float32)
    # In place and one plane at a time, which stays in the cache. The order of operations is
    # torchvision's, so that the result is equal bit for bit.
    for index in range(channels):
        plane = array[index]
        plane[...] = pixels[:, :, index]
        plane /= np.float32(255)
        plane -= np.float32(preprocessing.mean[index])
        plane /= np.float32(preprocessing.std[index])
    return array


def to_jpeg(cropped: PIL.Image.Image, quality: int = 90) -> bytes:
    """A crop as a JPEG file with 4:2:0 chroma (Pillow's default), as a device sends it at `input`.

    Raises ImageError for a mode that JPEG does not have.
    """
    buffer = io.BytesIO()
    try:
        cropped.save(buffer, "JPEG", quality=quality)
    except (OSError, ValueError) as error:
        raise ImageError(
            f"cannot write {cropped.mode} of {cropped.width}x{cropped.height} as JPEG: {error}"
        ) from error
    return buffer.getvalue()


def read_file(path: str | Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a photo's file, at most ``max_bytes`` + 1 of them. Raises ImageError."""
    try:
        # Reading a pipe could block, and reading a device could never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError(f"image {str(path)!r}: expected a regular file")
        with open(path, "rb") as file:
            return file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"image {str(path)!r}: {reason}") from error


def read_once(image: Image, *, max_bytes: int = MAX_BYTES) -> Image:
    """An image that can be used several times: the bytes of a file object, anything else as it is.

    At most ``max_bytes`` + 1 bytes are read. Raises ImageError for a file object that cannot be
    read, or that is not opened in binary mode.
    """
    read = getattr(image, "read", None)
    if not callable(read) or isinstance(image, PIL.Image.Image | np.ndarray):
        return image
    data = bytearray()
    while len(data) <= max_bytes:
        try:
            piece: Any = read(min(_CHUNK, max_bytes + 1 - len(data)))
        except Exception as error:  # of the caller's object
            raise ImageError(
                f"file object: cannot be read ({type(error).__name__}: {error})"
            ) from error
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise ImageError(
                'file object: expected bytes, as from open(path, "rb"), got '
                f"{type(piece).__qualname__}"
            )
        if not piece:
            break
        data += piece
    return bytes(data)


def _open(data: memoryview, name: str, max_pixels: int, formats: Sequence[str]) -> PIL.Image.Image:
    try:
        return PIL.Image.open(io.BytesIO(data), formats=[f for f in formats if _is_readable(f)])
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: more than the {max_pixels} pixels allowed") from error
    except PIL.UnidentifiedImageError as error:
        raise _not_opened(data, name, formats) from error
    except Exception as error:  # decoders raise many types for damaged bytes
        raise ImageError(f"{name}: unreadable ({type(error).__name__}: {error})") from error


def _not_opened(data: memoryview, name: str, formats: Sequence[str]) -> ImageError:
    """The error for bytes that no decoder wants."""
    start = bytes(data[:64])
    kind = photo_format(start)
    expected = format_names([f for f in formats if _is_readable(f)])
    if kind is None:
        content = (
            f"{data.nbytes} bytes that begin with {start[:8].hex(' ')}" if start else "no bytes"
        )
        return ImageError(f"{name}: expected {expected}, got {content}")
    shown = format_names([kind])
    if kind in formats and _is_readable(kind):
        return ImageError(f"{name}: a damaged {shown} file", format=kind)
    return ImageError(
        f"{name}: expected {expected}, got {shown}{how_to_convert(kind)}", format=kind
    )


def _is_readable(name: str) -> bool:
    """Whether this Pillow has the decoder, for the formats that it may lack."""
    return name not in ("WEBP", "AVIF") or bool(PIL.features.check(name.lower()))


def _from_array(pixels: npt.NDArray[np.generic], max_pixels: int) -> PIL.Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not is_image:
        raise ImageError(
            "expected uint8 of shape (H, W, 3) or (H, W), "
            f"got {pixels.dtype} of shape {pixels.shape}"
        )
    _check_size((pixels.shape[1], pixels.shape[0]), "image", max_pixels)
    return PIL.Image.fromarray(pixels)


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width <= 0 or height <= 0:
        raise ImageError(f"{name}: empty, {width}x{height} pixels")
    if width * height > max_pixels:
        raise ImageError(f"{name}: {width}x{height} pixels, more than the {max_pixels} allowed")


def _upright(image: PIL.Image.Image, name: str, max_pixels: int) -> PIL.Image.Image:
    _check_size(image.size, name, max_pixels)
    try:
        image.load()
    except Exception as error:  # decoders raise many types for damaged bytes
        raise ImageError(
            f"{name}: broken {image.format or 'image'} file ({type(error).__name__}: {error})"
        ) from error
    try:
        is_turned = image.getexif().get(_ORIENTATION, 1) not in (None, 1)
        return PIL.ImageOps.exif_transpose(image) if is_turned else image
    except Exception:  # a damaged EXIF block does not make the photo unusable
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
        # Without this step Pillow warns about a palette with transparency.
        picture = picture.convert("RGBA")
    try:
        return picture.convert(mode)
    except (OSError, ValueError) as error:
        raise ImageError(
            f"expected an image that can be converted to {mode}, got mode {picture.mode}"
        ) from error


def _resize(
    picture: PIL.Image.Image, shorter: int, resample: PIL.Image.Resampling
) -> PIL.Image.Image:
    """Resize the shorter side to ``shorter`` pixels; torchvision truncates the longer side."""
    width, height = picture.size
    longer = int(shorter * max(width, height) / min(width, height))
    size = (shorter, longer) if width <= height else (longer, shorter)
    if size == picture.size:
        return picture
    # An image of 1 x 60,000 pixels would become one of 256 x 15 million.
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(
            f"image: {width}x{height} pixels is too long and thin to resize to {size[0]}x{size[1]}"
        )
    return picture.resize(size, resample)


def _crop_offset(size: int, crop_size: int) -> int:
    """Where the centre crop begins, with torchvision's rounding; negative for padding."""
    if size >= crop_size:
        return round((size - crop_size) / 2.0)
    return -((crop_size - size) // 2)
