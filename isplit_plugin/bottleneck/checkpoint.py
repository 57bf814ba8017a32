"""Checkpoints of a training: safetensors with JSON in the metadata, written atomically, read without running code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import ArtifactError, NetworkMismatchError
from ..files import write_atomically

__all__ = [
    "FORMAT",
    "check_owner",
    "optimizer_tensors",
    "read",
    "restore_module",
    "restore_optimizer",
    "write",
]

FORMAT: Final = 1
MAX_BYTES: Final = 16 << 30


def write(
    path: Path, key: str, described: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Replace ``path`` by a file with these tensors and ``described`` under ``key``. Raises ArtifactError."""
    metadata = {key: json.dumps({"format": FORMAT, **described}, sort_keys=True, allow_nan=False)}
    copies = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: save_file(copies, temporary, metadata))
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: cannot be written ({error})") from error


def read(path: Path, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON under ``key`` and the tensors of a file. Raises ArtifactError: missing, foreign, newer, too large."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ArtifactError(f"{path}: more than the {MAX_BYTES} bytes allowed")
        with safe_open(str(path), framework="pt") as file:
            described = json.loads((file.metadata() or {})[key])
            if not isinstance(described, dict) or int(described["format"]) > FORMAT:
                raise ArtifactError(
                    f"{path}: expected format {FORMAT} or older, found {str(described)[:80]}"
                )
            return described, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file") from error
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path}: not a file of this kind ({type(error).__name__}: {error})"
        ) from error


def check_owner(path: Path, described: Mapping[str, Any], network_hash: str) -> None:
    """Raises NetworkMismatchError for a file that belongs to another network."""
    theirs = str(described.get("network_hash"))
    if theirs != network_hash:
        raise NetworkMismatchError(
            f"{path} belongs to network {theirs[:16]}, this network is {network_hash[:16]}",
            expected=network_hash,
            found=theirs,
        )


def restore_module(
    path: Path, module: nn.Module, tensors: Mapping[str, Tensor], prefix: str
) -> None:
    """Load the tensors under ``prefix`` into a module. Raises ArtifactError where names or shapes do not fit."""
    mine = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    try:
        module.load_state_dict(mine)
    except RuntimeError as error:
        raise ArtifactError(f"{path}: its tensors do not fit: {str(error)[:300]}") from error


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: ``optimizer.<parameter>.<name>``."""
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizer(path: Path, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`optimizer_tensors`. Raises ArtifactError."""
    state: dict[int, dict[str, Tensor]] = {}
    for full, value in tensors.items():
        if full.startswith("optimizer."):
            _, index, name = full.split(".")
            state.setdefault(int(index), {})[name] = value
    try:
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path}: its optimizer does not fit ({error})") from error
