"""Files of arrays with a description: safetensors, and JSON in their metadata with a SHA-256 over
both. Reading a file runs no code, and allocates no more than the bytes that came.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from .errors import ArtifactError, IsplitError, NetworkMismatchError

Arrays = dict[str, npt.NDArray[Any]]
"""The arrays of a file, by name."""


def pack_arrays(key: str, content: Mapping[str, Any], arrays: Arrays) -> bytes:
    """The file of these arrays. Equal parts give equal bytes.

    Parameters:
        key: what kind of file it is; the metadata stand under it.
        content: JSON types, with a ``format``.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # One metadata key, because safetensors writes several in random order.
    signed = canonical({"content": content, "sha256": digest(content, contiguous)})
    return bytes(safetensors.numpy.save(contiguous, metadata={key: signed}))


def unpack_arrays(
    data: bytes, key: str, *, newest: int, max_bytes: int
) -> tuple[dict[str, Any], Arrays]:
    """The content and the arrays of a file, whose hash is right. Nothing else is checked.

    Parameters:
        newest: the newest ``format`` of the content that can be read.

    Raises ArtifactError, and LookupError, TypeError or ValueError where the metadata are not those
    of :func:`pack_arrays`.
    """
    if len(data) > max_bytes:
        raise ArtifactError(f"expected at most {max_bytes} bytes, got {len(data)}")
    try:
        arrays = safetensors.numpy.load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except Exception as error:  # the library raises several types, some of them its own
        raise ArtifactError(
            f"expected a safetensors file ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    if key not in metadata:
        kind = key.removeprefix("isplit_").replace("_", " ")
        raise ArtifactError(f"expected {kind}, got safetensors without metadata {key!r}")
    signed = json.loads(metadata[key])
    content = signed["content"]
    if int(content["format"]) > newest:
        raise ArtifactError(f"expected format {newest} or older, got {content['format']}")
    sha256 = digest(content, arrays)
    if sha256 != signed["sha256"]:
        stated = str(signed["sha256"])[:64]
        raise ArtifactError(f"damaged or edited: expected SHA-256 {stated}, got {sha256}")
    return content, arrays


@contextmanager
def reading(
    where: str, kind: str, error_type: Callable[[str], IsplitError] = ArtifactError
) -> Iterator[None]:
    """Turn whatever the body raises, which reads a file of arrays, into one error.

    A file that belongs to another network stays a NetworkMismatchError.

    Parameters:
        where: what the messages begin with.
        kind: what was expected, such as "a file of transforms".
        error_type: makes the error from its message.
    """
    try:
        yield
    except NetworkMismatchError as error:
        raise NetworkMismatchError(f"{where}: {error.message}", **error.details) from error
    except IsplitError as error:
        raise error_type(f"{where}: {error.message}") from error
    except Exception as error:  # safetensors raises several types, some of them its own
        raise error_type(
            f"{where}: expected {kind} ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def digest(content: Mapping[str, Any], arrays: Arrays) -> str:
    """SHA-256 over both parts of a file, in hexadecimal digits."""
    sha = hashlib.sha256(canonical(content).encode())
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def canonical(value: Mapping[str, Any]) -> str:
    """JSON text that is equal for equal values. Raises ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
