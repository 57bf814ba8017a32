"""Where networks come from: torchvision, timm, ``.pt2`` files and factories.

A network is named by a spec:

- ``torchvision:resnet50`` or ``timm:resnet50``: a network of that library. Nothing is downloaded,
  so its weights are random numbers until a file with weights is loaded.
- ``package.module:factory``: what that attribute is, or returns when called without arguments:
  an ``nn.Module``; or a tuple ``(model, preprocessing, classes, example_input)``, of which the last
  elements can be left out; or an object with an attribute ``model`` and optionally the other three.
  ``preprocessing`` is a :class:`~isplit_plugin.schema.Preprocessing`, ``classes`` are the class
  names in the order of the scores, ``example_input`` is a batch.
- a path to a ``.pt2`` file. **Only from trusted files**: loading one runs the code in it.
"""

from __future__ import annotations

import difflib
import importlib
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArtifactError, CaptureError, UnknownModelError
from ..schema import Preprocessing
from .captured_network import CapturedNetwork

__all__ = ["SourceNetwork", "open_source"]


@dataclass(frozen=True, slots=True, eq=False)
class SourceNetwork:
    """A network, and what its source says about it."""

    model: nn.Module
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    example_input: Tensor | None = None
    captured: CapturedNetwork | None = None


def open_source(spec: str, class_count: int | None = None) -> SourceNetwork:
    """The network that a spec names; see the module's docstring.

    ``class_count`` sets the number of scores of a network of torchvision or timm.

    Raises UnknownModelError, CaptureError (no such factory, or its result is no network),
    ArtifactError (no readable ``.pt2`` file).
    """
    prefix, colon, name = spec.partition(":")
    if prefix == "torchvision" and colon:
        return _from_torchvision(name, class_count)
    if prefix == "timm" and colon:
        return _from_timm(name, class_count)
    if spec.endswith(".pt2"):
        return _from_pt2(Path(spec))
    if colon and all(part.isidentifier() for part in f"{prefix}.{name}".split(".")):
        return _from_factory(prefix, name)
    raise CaptureError(
        f"network {spec!r}: expected torchvision:NAME, timm:NAME, package.module:factory or the "
        "path of a .pt2 file"
    )


def _from_torchvision(name: str, class_count: int | None) -> SourceNetwork:
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise UnknownModelError.of(name, names, limit=100)
    options: dict[str, Any] = {} if class_count is None else {"num_classes": class_count}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # initialising them takes half a minute
    model = models.get_model(name, weights=None, **options)
    weights = models.get_model_weights(name).DEFAULT
    transforms = weights.transforms()
    crop_size = transforms.crop_size  # one number for a square, else height and width
    preprocessing = Preprocessing(
        crop=(crop_size[0], crop_size[-1]),
        resize=transforms.resize_size[0],
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=transforms.interpolation.value,
    )
    classes = tuple(weights.meta["categories"]) if class_count is None else None
    return SourceNetwork(model, preprocessing, classes)


def _from_timm(name: str, class_count: int | None) -> SourceNetwork:
    try:
        import timm
        from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_model_data_config
    except ImportError as error:
        raise CaptureError(f"timm:{name} needs pip install 'isplit-plugin[timm]'") from error
    if not timm.is_model(name):
        names = timm.list_models()
        close = difflib.get_close_matches(name, names, n=20, cutoff=0.4)
        raise UnknownModelError.of(name, close or names)
    options: dict[str, Any] = {} if class_count is None else {"num_classes": class_count}
    model = timm.create_model(name, pretrained=False, **options)
    config = resolve_model_data_config(model)
    channels, height, width = config["input_size"]
    interpolation = config["interpolation"]
    preprocessing = Preprocessing(
        crop=(height, width),
        resize=math.floor(min(height, width) / config["crop_pct"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=interpolation if interpolation in ("bilinear", "nearest") else "bicubic",
        mode="L" if channels == 1 else "RGB",
    )
    subset = infer_imagenet_subset(model) if class_count is None else None
    if subset is None:
        return SourceNetwork(model, preprocessing)
    info = ImageNetInfo(subset)
    descriptions = [info.index_to_description(index) for index in range(info.num_classes())]
    classes = tuple(description.split(", ")[0] for description in descriptions)
    return SourceNetwork(model, preprocessing, classes)


def _from_pt2(path: Path) -> SourceNetwork:
    """A captured network with its names, or any other exported network.

    torch.export records no modules, so the tensors of the latter are named after operators.
    """
    try:
        captured = CapturedNetwork.load(path)
    except ArtifactError:
        if not path.is_file():
            raise
        return _from_exported_program(path)
    example = torch.zeros((1, *captured.input_shape), dtype=captured.dtype)
    return SourceNetwork(captured.model, example_input=example, captured=captured)


def _from_exported_program(path: Path) -> SourceNetwork:
    try:
        program = torch.export.load(path)
        module = program.module()
        # These methods raise errors: an exported network has only the mode it was exported in.
        for method in ("train", "eval"):
            vars(module).pop(method, None)
        example = next(iter(program.example_inputs[0])) if program.example_inputs else None
        return SourceNetwork(module, example_input=example if isinstance(example, Tensor) else None)
    except Exception as error:  # torch raises many types here
        raise ArtifactError(
            f"{path}: expected an exported network ({type(error).__name__}: {error})"
        ) from error


def _from_factory(module: str, attribute: str) -> SourceNetwork:
    spec = f"{module}:{attribute}"
    # As `python -m` does, but at the end, so that it shadows nothing that is installed.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        value = importlib.import_module(module)
        for part in attribute.split("."):
            value = getattr(value, part)
        if callable(value) and not isinstance(value, nn.Module):
            value = value()
    except Exception as error:  # the user's code can raise anything
        raise CaptureError(f"network {spec!r}: {type(error).__name__}: {error}") from error
    return _from_value(value, spec)


def _from_value(value: Any, spec: str) -> SourceNetwork:
    """Read what a factory returned."""
    if isinstance(value, nn.Module):
        return SourceNetwork(value)
    if isinstance(value, tuple) and not hasattr(value, "model"):
        model, preprocessing, classes, example = (*value, None, None, None, None)[:4]
    else:
        names = ("model", "preprocessing", "classes", "example_input")
        model, preprocessing, classes, example = (getattr(value, name, None) for name in names)
    has_preprocessing = isinstance(preprocessing, Preprocessing)
    if not isinstance(model, nn.Module) or not (preprocessing is None or has_preprocessing):
        raise CaptureError(
            f"network {spec!r}: expected an nn.Module, or a model with preprocessing and classes, "
            f"got {type(value).__name__} with {type(model).__name__} and "
            f"{type(preprocessing).__name__}"
        )
    return SourceNetwork(
        model,
        preprocessing,
        None if classes is None else tuple(str(name) for name in classes),
        example if isinstance(example, Tensor) else None,
    )
