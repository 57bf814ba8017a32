"""Weights and class names from files, read without running code that could be in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ArtifactError, DataError

__all__ = ["load_weights", "read_classes", "read_weights"]

_SHOWN = 8
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or of a PyTorch state dict (``weights_only``: no code runs).

    A state dict may lie under ``state_dict``, ``model_state_dict``, ``model`` or ``net``, as checkpoints keep it;
    the prefix ``module.`` of a data-parallel network is dropped. Raises ArtifactError.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file") from error
    except Exception as error:  # the readers raise many types, their own among them
        reason = str(error).splitlines()[0] if str(error) else ""
        raise ArtifactError(
            f"{path}: expected .safetensors or a state dict of tensors ({type(error).__name__}: {reason})"
        ) from error
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ArtifactError(
            f"{path}: expected a state dict of tensors, found {type(content).__name__}"
        )
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a file into a network, cast to the network's precision. Every parameter must be in the file and fit.

    Raises ArtifactError naming some of the missing, unexpected and misshapen ones.
    """
    state = read_weights(path)
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]
    problems = [
        f"{len(keys)} {what}: {_some(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if keys
    ]
    if problems:
        raise ArtifactError(f"{path} does not fit the network; {'; '.join(problems)}")
    broken = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise ArtifactError(f"{path}: NaN or infinite weights in {_some(broken)}")
    model.load_state_dict(
        state, strict=False
    )  # num_batches_tracked may be missing: inference does not use it


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Class names in the order of the scores: a JSON list, or one label a line. Raises DataError."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read the class names ({error})") from error
    if text.lstrip().startswith("["):
        try:
            names = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not a JSON list of class names ({error})") from error
        if not all(isinstance(n, str) for n in names):
            raise DataError(f"{path}: expected a JSON list of strings")
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path}: no class names in it")
    return tuple(names)


def _some(keys: Iterable[str]) -> str:
    names = list(keys)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
