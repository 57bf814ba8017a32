"""Reading weights and class names from files, without running code that could be in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from ..errors import ArtifactError, DataError
from .wording import first_line, listing

__all__ = ["load_weights", "read_classes", "read_weights"]

_WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "net")


def load_weights(model: nn.Module, path: str | Path, *, any_classes: bool = False) -> None:
    """Load weights from a file into a network, in the network's precision.

    ``any_classes`` says that the network can be built with another number of classes; the error
    then suggests the number that the weights have.

    Raises ArtifactError if the file cannot be read (:func:`read_weights`), a parameter is missing,
    unexpected or of another shape, or a weight is not finite.
    """
    weights = read_weights(path)
    parameters = model.state_dict()
    problems = {
        "missing": [
            name
            for name in parameters
            # Inference does not use num_batches_tracked.
            if name not in weights and not name.endswith("num_batches_tracked")
        ],
        "unexpected": [name for name in weights if name not in parameters],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)}, expected {tuple(parameter.shape)}"
            for name, parameter in parameters.items()
            if name in weights and weights[name].shape != parameter.shape
        ],
    }
    if any(problems.values()):
        text = "; ".join(
            f"{len(names)} {problem}: {listing(names)}"
            for problem, names in problems.items()
            if names
        )
        hint = _class_count_hint(weights, parameters) if any_classes else ""
        raise ArtifactError(f"{path}: the weights do not fit the network: {text}{hint}")
    not_finite = [
        name
        for name, weight in weights.items()
        if weight.is_floating_point() and not weight.isfinite().all()
    ]
    if not_finite:
        raise ArtifactError(f"{path}: NaN or infinite weights in {listing(not_finite)}")
    model.load_state_dict(weights, strict=False)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or of a PyTorch state dict.

    In a checkpoint, the state dict may lie under ``state_dict``, ``model_state_dict``, ``model`` or
    ``net``. The prefix ``module.`` of a data-parallel network is dropped.

    Raises ArtifactError if the file is missing or has another content.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file") from error
    except Exception as error:  # the readers raise many types, some of them their own
        raise ArtifactError(
            f"{path}: expected .safetensors or a state dict of tensors ({first_line(error)})"
        ) from error
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ArtifactError(
            f"{path}: expected a state dict of tensors, got {type(content).__name__}"
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Class names in the order of the scores, from a JSON list or a file with one name a line.

    Raises DataError if the file cannot be read or holds no names.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read the class names ({error})") from error
    if text.lstrip().startswith("["):
        try:
            names = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: expected a JSON list of class names ({error})") from error
        if not all(isinstance(name, str) for name in names):
            raise DataError(f"{path}: expected a JSON list of strings")
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path}: no class names in the file")
    return tuple(names)


def _class_count_hint(weights: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> str:
    """A hint if all shapes that differ do so in the number of rows, by the same two numbers."""
    shapes = [
        (tuple(weights[name].shape), tuple(parameter.shape))
        for name, parameter in parameters.items()
        if name in weights and weights[name].shape != parameter.shape
    ]
    if not all(actual and expected for actual, expected in shapes):
        return ""
    counts = {(actual[0], expected[0]) for actual, expected in shapes}
    if len(counts) != 1 or any(actual[1:] != expected[1:] for actual, expected in shapes):
        return ""
    [(actual_count, expected_count)] = counts
    return (
        f". The weights seem to be for {actual_count} classes, the network has {expected_count}: "
        f"give --classes {actual_count}, or --classes FILE with their names"
    )
