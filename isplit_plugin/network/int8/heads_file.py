"""Files of int8 heads, ``NAME.heads.safetensors``: ONNX models, and the network they belong to.

The models stand in arrays of bytes, with a SHA-256 over them and over the rest. Reading a file runs
no code; an ONNX model is data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from ...errors import ArtifactError, NetworkMismatchError
from ...files import write_atomically
from ...hashed_arrays import pack_arrays, reading, unpack_arrays
from .heads import Int8Heads

FORMAT: Final = 1
MAX_BYTES: Final = 1 << 31
KEY: Final = "isplit_int8_heads"


def pack_int8_heads(heads: Int8Heads) -> bytes:
    """The file of these heads. Equal ones give equal bytes."""
    content = {
        "format": FORMAT,
        "network_hash": heads.network_hash,
        "float_layers": heads.float_layers,
        "split_points": list(heads.files),
    }
    arrays = {
        str(number): np.frombuffer(data, np.uint8)
        for number, data in enumerate(heads.files.values())
    }
    return pack_arrays(KEY, content, arrays)


def save_int8_heads(path: str | Path, heads: Int8Heads) -> None:
    """Write a file atomically. Raises ArtifactError if it cannot be written."""
    try:
        write_atomically(path, pack_int8_heads(heads))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror or error})") from error


def load_int8_heads(path: str | Path, network_hash: str) -> Int8Heads:
    """Read a file. Raises what :func:`unpack_int8_heads` raises, ArtifactError if it is missing."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return unpack_int8_heads(data, network_hash, where=str(path))


def unpack_int8_heads(data: bytes, network_hash: str, *, where: str = "int8 heads") -> Int8Heads:
    """The inverse of :func:`pack_int8_heads`. Messages of errors begin with ``where``.

    Raises:
        NetworkMismatchError: the heads are those of another network.
        ArtifactError: damaged, edited or newer.
    """
    with reading(where, "a file of int8 heads"):
        content, arrays = unpack_arrays(data, KEY, newest=FORMAT, max_bytes=MAX_BYTES)
        if content["network_hash"] != network_hash:
            raise NetworkMismatchError(
                f"int8 heads of network {str(content['network_hash'])[:16]}, this one is "
                f"{network_hash[:16]}",
                expected=network_hash,
                found=str(content["network_hash"]),
            )
        names = [str(name) for name in content["split_points"]]
        expected = [str(number) for number in range(len(names))]
        if sorted(arrays) != sorted(expected) or len(set(names)) != len(names):
            raise ArtifactError(f"expected {len(names)} heads, got {len(arrays)}")
        if not all(array.dtype == np.uint8 and array.ndim == 1 for array in arrays.values()):
            raise ArtifactError("expected heads as bytes")
        files = {name: arrays[key].tobytes() for name, key in zip(names, expected, strict=True)}
        return Int8Heads(network_hash, files, int(content["float_layers"]))
