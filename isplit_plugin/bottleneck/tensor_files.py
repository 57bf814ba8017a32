"""Files with named tensors and a JSON header: safetensors, which are read without running code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import ArtifactError, NetworkMismatchError
from ..files import write_atomically

__all__ = ["check_network", "load_module", "read", "with_prefix", "without_prefix", "write"]

FORMAT: Final = 1
MAX_BYTES: Final = 16 << 30


def write(path: Path, key: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a file atomically, replacing an existing one.

    Parameters:
        key: what kind of file this is; the header is stored under this name.
        header: JSON types.

    Raises:
        ArtifactError: the file cannot be written.
    """
    metadata = {key: json.dumps({"format": FORMAT, **header}, sort_keys=True, allow_nan=False)}
    copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: save_file(copies, temporary, metadata))
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: cannot be written ({error})") from error


def read(path: Path, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header under ``key`` and the tensors of a file.

    Raises:
        ArtifactError: the file does not exist, is of another kind, has a newer format or is larger
            than ``MAX_BYTES``.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ArtifactError(f"{path}: expected at most {MAX_BYTES} bytes")
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})[key])
            if not isinstance(header, dict) or int(header["format"]) > FORMAT:
                raise ArtifactError(
                    f"{path}: expected format {FORMAT} or older, got {str(header)[:80]}"
                )
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file") from error
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path}: not a file of this kind ({type(error).__name__}: {error})"
        ) from error


def check_network(path: Path, header: Mapping[str, Any], network_hash: str) -> None:
    """Raises NetworkMismatchError if the header's ``network_hash`` is another one."""
    hash_in_file = str(header.get("network_hash"))
    if hash_in_file != network_hash:
        raise NetworkMismatchError(
            f"{path} belongs to network {hash_in_file[:16]}, this network is {network_hash[:16]}",
            expected=network_hash,
            found=hash_in_file,
        )


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, renamed to ``<prefix>.<name>``."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are called ``<prefix>.<name>``, renamed to ``<name>``."""
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def load_module(path: Path, module: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    """Load the tensors under ``prefix`` into a module.

    Raises ArtifactError, whose message begins with ``path``, if names or shapes do not fit.
    """
    try:
        module.load_state_dict(without_prefix(prefix, tensors))
    except RuntimeError as error:
        raise ArtifactError(
            f"{path}: the tensors do not fit the module {prefix!r}: {str(error)[:300]}"
        ) from error
