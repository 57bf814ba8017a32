"""Photos as files, for the codec `file`: the server does all preprocessing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from .. import image as im
from ..errors import ImageError
from ..image import Image


def file_bytes(image: Image) -> bytes | bytearray | memoryview:
    """The bytes of an image file; pixels without a file become a PNG. Raises ImageError."""
    if isinstance(image, bytes | bytearray | memoryview):
        return image
    if isinstance(image, str | Path):
        data = im.read_file(image)
        if len(data) > im.MAX_BYTES:
            raise ImageError(f"image {str(image)!r}: expected at most {im.MAX_BYTES} bytes")
        return data
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        raise ImageError(
            "expected a photo for codec 'file', got a preprocessed array: use a codec for tensors, "
            "such as fp32"
        )
    buffer = io.BytesIO()
    try:
        im.load(image).save(buffer, "PNG")
    except (OSError, ValueError) as error:
        raise ImageError(f"the image cannot be written as PNG ({error})") from error
    return buffer.getvalue()
