"""Arrays and a JSON header as bytes: safetensors, with a SHA-256 over both.

Reading runs no code, and allocates no more than the bytes that came.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors.numpy

FORMAT: Final = 1
_MAX_HEADER: Final = 1 << 16

Arrays = Mapping[str, npt.NDArray[Any]]


def pack(kind: str, header: Mapping[str, Any], arrays: Arrays) -> bytes:
    """The bytes. Equal content gives equal bytes."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = {**header, "format": FORMAT}
    signed = canonical({"content": content, "sha256": digest(content, contiguous)})
    return bytes(safetensors.numpy.save(contiguous, metadata={kind: signed}))


def unpack(
    kind: str, data: bytes, max_bytes: int
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Header and arrays of :func:`pack`.

    Raises ValueError that says what was expected; other kinds of damage raise whatever the library
    raises, so callers catch Exception.
    """
    if len(data) > max_bytes:
        raise ValueError(f"expected at most {max_bytes} bytes, got {len(data)}")
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= min(_MAX_HEADER, len(data)):
        raise ValueError(f"expected a header of at most {_MAX_HEADER} bytes, got {length}")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    if kind not in metadata:
        raise ValueError(f"expected metadata {kind!r}")
    signed = json.loads(metadata[kind])
    header = dict(signed["content"])
    if header["format"] != FORMAT:
        raise ValueError(f"expected format {FORMAT}, got {str(header['format'])[:20]}")
    arrays = safetensors.numpy.load(data)
    sha256 = digest(header, arrays)
    if sha256 != signed["sha256"]:
        raise ValueError(f"damaged or edited: expected SHA-256 {str(signed['sha256'])[:64]}")
    return header, arrays


def digest(header: Mapping[str, Any], arrays: Arrays) -> str:
    """SHA-256 over both parts, in hexadecimal digits."""
    sha = hashlib.sha256(canonical(header).encode())
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def canonical(value: Mapping[str, Any]) -> str:
    """JSON with sorted names. Raises ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def require_array(
    arrays: Arrays, name: str, dtype: type[np.generic], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """The array, checked: its type, its shape, and that all values are finite. Raises ValueError."""
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"expected an array {name!r}")
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"{name}: expected {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite values")
    return array
