"""Photos as files, for the codec `file`: the server does all preprocessing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import numpy as np

from .. import image as im
from ..errors import ImageError
from ..image import Image
from ..photo_formats import photo_format

_PNG_MODES: Final = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I")


def file_bytes(image: Image) -> bytes | bytearray | memoryview:
    """The bytes of a photo's file as it travels.

    A file in one of ``WIRE_FORMATS`` is left as it is. Another that can be read here, and pixels
    without a file, become PNG. Raises ImageError.
    """
    image = im.read_once(image)
    name = "image"
    if isinstance(image, str | Path):
        name = f"image {str(image)!r}"
        image = im.read_file(image)
    if isinstance(image, bytes | bytearray | memoryview):
        if len(image) > im.MAX_BYTES:
            raise ImageError(f"{name}: expected at most {im.MAX_BYTES} bytes")
        if photo_format(bytes(image[:64])) in im.WIRE_FORMATS:
            return image
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        raise ImageError(
            "expected a photo for codec 'file', got a preprocessed array: use a codec for tensors, "
            "such as fp32"
        )
    picture = im.load(image)
    buffer = io.BytesIO()
    try:
        if picture.mode not in _PNG_MODES:
            picture = picture.convert("RGB")
        picture.save(buffer, "PNG")
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be written as PNG ({error})") from error
    return buffer.getvalue()
