"""Files of correctors, ``NAME.correctors.safetensors``: weights, and what they belong to.

The arrays are safetensors, with a SHA-256 over them and over the rest. Reading a file runs no code,
and everything in it is checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from ...errors import ArtifactError, NetworkMismatchError
from ...files import write_atomically
from ...hashed_arrays import Arrays, pack_arrays, reading, unpack_arrays
from ...wire import Transform, transform_sha256
from .corrector import Corrector

FORMAT: Final = 1
MAX_BYTES: Final = 256 * 1024 * 1024
KEY: Final = "isplit_correctors"

Correctors = Mapping[str, Corrector]
"""Split point -> its corrector."""
Transforms = Mapping[str, Transform]
"""Split point -> its transform."""


def pack_correctors(correctors: Correctors, transforms: Transforms) -> bytes:
    """The file of these correctors. Equal ones give equal bytes.

    ``transforms``: those that the correctors were trained behind.
    """
    content = {
        "format": FORMAT,
        "correctors": [
            {
                "network_hash": transforms[name].network_hash,
                "split_point": name,
                "transform": transform_sha256(transforms[name]),
            }
            for name in correctors
        ],
    }
    arrays = {
        f"{number}.{name}": np.ascontiguousarray(tensor.detach().cpu().numpy())
        for number, corrector in enumerate(correctors.values())
        for name, tensor in corrector.state_dict().items()
    }
    return pack_arrays(KEY, content, arrays)


def unpack_correctors(
    data: bytes, transforms: Transforms, *, where: str = "correctors"
) -> dict[str, Corrector]:
    """The inverse of :func:`pack_correctors`, with every corrector ready to run.

    Parameters:
        transforms: those that the correctors are to stand behind.

    Messages of errors begin with ``where``.

    Raises:
        NetworkMismatchError: a corrector belongs to another network.
        ArtifactError: damaged, edited or newer; of a split point without a transform, or trained
            behind another transform; weights of another shape, or not finite.
    """
    with reading(where, "a file of correctors"):
        content, arrays = unpack_arrays(data, KEY, newest=FORMAT, max_bytes=MAX_BYTES)
        return {
            str(raw["split_point"]): _corrector(raw, _own(number, arrays), transforms)
            for number, raw in enumerate(content["correctors"])
        }


def corrector_sha256(corrector: Corrector, transform: Transform) -> str:
    """SHA-256 of the file of one corrector, in hexadecimal digits."""
    name = transform.split_point
    return hashlib.sha256(pack_correctors({name: corrector}, {name: transform})).hexdigest()


def save_correctors(path: str | Path, correctors: Correctors, transforms: Transforms) -> None:
    """Write a file atomically. Raises ArtifactError if it cannot be written."""
    try:
        write_atomically(path, pack_correctors(correctors, transforms))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror or error})") from error


def load_correctors(path: str | Path, transforms: Transforms) -> dict[str, Corrector]:
    """Read a file. Raises what :func:`unpack_correctors` raises, ArtifactError if it is missing."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return unpack_correctors(data, transforms, where=str(path))


def _own(number: int, arrays: Arrays) -> Arrays:
    prefix = f"{number}."
    return {n.removeprefix(prefix): array for n, array in arrays.items() if n.startswith(prefix)}


def _corrector(raw: Mapping[str, Any], arrays: Arrays, transforms: Transforms) -> Corrector:
    name = str(raw["split_point"])
    transform = transforms.get(name)
    if transform is None:
        raise ArtifactError(
            f"corrector of {name!r}: expected one of a split point with a transform: "
            f"{', '.join(transforms) or 'there is none'}"
        )
    found = str(raw["network_hash"])
    if found != transform.network_hash:
        raise NetworkMismatchError(
            f"corrector of {name!r} belongs to network {found[:16]}, this one is "
            f"{transform.network_hash[:16]}",
            expected=transform.network_hash,
            found=found,
        )
    expected = transform_sha256(transform)
    if raw["transform"] != expected:
        raise ArtifactError(
            f"corrector of {name!r}: trained behind transform {str(raw['transform'])[:16]}, the "
            f"one here is {expected[:16]}; fit both together (isplit profile)"
        )
    corrector = Corrector(transform).eval().requires_grad_(False)
    state = corrector.state_dict()
    if sorted(arrays) != sorted(state):
        raise ArtifactError(
            f"corrector of {name!r}: expected {sorted(state)}, got {sorted(arrays)}"
        )
    for key, tensor in state.items():
        array = arrays[key]
        shape, dtype = tuple(tensor.shape), tensor.numpy().dtype
        if array.shape != shape or array.dtype != dtype:
            raise ArtifactError(
                f"corrector of {name!r}: {key}: expected {dtype} {shape}, got {array.dtype} "
                f"{array.shape}"
            )
        if not np.isfinite(array).all():
            raise ArtifactError(f"corrector of {name!r}: {key}: expected finite values")
    if not (arrays["scale"] > 0).all():
        raise ArtifactError(f"corrector of {name!r}: scale: expected above 0")
    corrector.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
    return corrector
