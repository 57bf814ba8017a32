"""The bytes of a photo as they are, for a server that does the whole preprocessing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from .. import image as im
from ..errors import ImageError
from ..image import Image
from ..wire import Buffer


def file_bytes(image: Image) -> Buffer:
    """The file as it is; pixels without a file become a PNG, which loses nothing. Raises ImageError."""
    if isinstance(image, bytes | bytearray | memoryview):
        return image
    if isinstance(image, str | Path):
        data = im.read_file(image)
        if len(data) > im.MAX_BYTES:
            raise ImageError(f"image {str(image)!r}: more than the {im.MAX_BYTES} bytes allowed")
        return data
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        raise ImageError(
            "a preprocessed array is no photo: send it with a codec for tensors, fp32 for one"
        )
    buffer = io.BytesIO()
    try:
        im.load(image).save(buffer, "PNG")
    except (OSError, ValueError) as error:
        raise ImageError(f"the image cannot be written as PNG ({error})") from error
    return buffer.getvalue()
