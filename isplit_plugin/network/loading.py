"""From a name on the command line to a network with its preprocessing and its classes.

A spec is one of

- ``torchvision:resnet50``, ``timm:resnet50``: built without a download, weights from a file;
- ``package.module:factory``: called without arguments. It returns an ``nn.Module``, or anything with an attribute
  ``model`` and, where it knows them, ``preprocessing`` (:class:`~isplit_plugin.schema.Preprocessing`), ``classes``
  (labels in the order of the scores) and ``example_input`` (a batch). :class:`LoadedNetwork` is such a thing, and so
  is a tuple ``(model, preprocessing, classes)``, shortened from the end as you like;
- a path to a ``.pt2`` file. Loading one runs code that is in it: only from people you trust.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..errors import ArtifactError, CaptureError, DataError, UnknownModelError
from ..schema import Preprocessing
from . import captured_network as captured
from .capture_graph import capture, required_inputs
from .captured_network import CapturedNetwork
from .weights import load_weights, read_classes

__all__ = ["IMAGENET_RESIZE", "LoadedNetwork", "load_network"]

IMAGENET_RESIZE: Final = 256 / 224
"""Shorter side over crop, where only the crop is known."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedNetwork:
    """A network in evaluation mode, a batch of one that fits it, and what turns photos into inputs and scores into
    labels. ``len(classes)`` is the number of scores."""

    model: nn.Module
    example_input: Tensor
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    captured: CapturedNetwork | None = None

    def capture(self) -> CapturedNetwork:
        """The network as it was saved once captured, else captured now. Raises CaptureError."""
        return self.captured or capture(self.model, self.example_input)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """What a spec tells by itself."""

    model: nn.Module
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    example_input: Tensor | None = None
    captured: CapturedNetwork | None = None


def load_network(
    spec: str | Path,
    weights: str | Path | None = None,
    *,
    classes: str | Path | Sequence[str] | None = None,
    input_size: int | tuple[int, int] | None = None,
    resize: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
) -> LoadedNetwork:
    """Load the network that ``spec`` names; what is given here outranks what the network says of itself.

    ``weights``: a ``.safetensors`` file or a PyTorch state dict (read without running code), cast to the network's
    precision. ``classes``: labels, or a file with one label a line or a JSON list. ``input_size`` (pixels, or height
    and width) alone keeps the ratio of ``resize`` to crop; ``resize=0`` means none. Where nothing names a mean and a
    standard deviation they are ImageNet's usual ones, where nothing names an input size that is an error.

    Raises UnknownModelError, CaptureError (no such factory, or not a classifier of images), ArtifactError (weights
    that do not fit, files that cannot be read) and DataError (labels that do not match the scores).
    """
    labels = None if classes is None else _labels(classes)
    found = _find(str(spec), labels)
    model = found.model.eval()
    if weights is not None:
        load_weights(model, weights)
    pre = _preprocessing(
        found,
        input_size=input_size,
        resize=resize,
        mean=mean,
        std=std,
        interpolation=interpolation,
        spec=str(spec),
    )
    example = found.example_input
    if example is None or tuple(example.shape[1:]) != pre.shape:
        example = torch.rand(1, *pre.shape, generator=torch.Generator().manual_seed(0))
    count = _count_scores(model, example, str(spec))
    labels = labels or found.classes or tuple(str(i) for i in range(count))
    if len(labels) != count:
        raise DataError(f"{spec}: {count} scores, but {len(labels)} class names")
    return LoadedNetwork(model, example, pre, labels, found.captured)


def _find(spec: str, labels: tuple[str, ...] | None) -> _Found:
    source, colon, name = spec.partition(":")
    count = None if labels is None else len(labels)
    if source == "torchvision" and colon:
        return _torchvision(name, count)
    if source == "timm" and colon:
        return _timm(name, count)
    if spec.endswith(".pt2"):
        return _pt2(Path(spec))
    if colon and all(part.isidentifier() for part in f"{source}.{name}".split(".")):
        return _factory(source, name)
    raise CaptureError(
        f"network {spec!r}: expected torchvision:NAME, timm:NAME, package.module:factory or a path to a .pt2 file"
    )


def _torchvision(name: str, count: int | None) -> _Found:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UnknownModelError.of(name, known, limit=100)
    meta = models.get_model_weights(name).DEFAULT
    options: dict[str, Any] = {} if count is None else {"num_classes": count}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # half a minute of random numbers that the weights replace
    model = models.get_model(name, weights=None, **options)
    want = meta.transforms()
    pre = Preprocessing(
        crop=_pair(want.crop_size),
        resize=want.resize_size[0],
        mean=tuple(want.mean),
        std=tuple(want.std),
        interpolation=want.interpolation.value,
    )
    return _Found(model, pre, tuple(meta.meta["categories"]) if count is None else None)


def _timm(name: str, count: int | None) -> _Found:
    try:
        import timm
        from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_model_data_config
    except ImportError as error:
        raise CaptureError(f"timm:{name} needs timm: pip install 'isplit-plugin[timm]'") from error
    if not timm.is_model(name):
        import difflib

        known = timm.list_models()
        raise UnknownModelError.of(
            name, difflib.get_close_matches(name, known, n=20, cutoff=0.4) or known
        )
    options: dict[str, Any] = {} if count is None else {"num_classes": count}
    model = timm.create_model(name, pretrained=False, **options)
    config = resolve_model_data_config(model)
    channels, height, width = config["input_size"]
    pre = Preprocessing(
        crop=(height, width),
        resize=math.floor(min(height, width) / config["crop_pct"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"]
        if config["interpolation"] in ("bilinear", "nearest")
        else "bicubic",
        mode="L" if channels == 1 else "RGB",
    )
    subset = infer_imagenet_subset(model) if count is None else None
    if subset is None:
        return _Found(model, pre)
    info = ImageNetInfo(subset)
    return _Found(
        model,
        pre,
        tuple(info.index_to_description(i).split(", ")[0] for i in range(info.num_classes())),
    )


def _pt2(path: Path) -> _Found:
    """A file of CapturedNetwork.save keeps its names and blocks; of any other exported network the names are those of
    its operators, for torch.export records no modules that return them."""
    try:
        saved = captured.load(path)
        shape = (1, *saved.input_shape)
        return _Found(
            saved.model, example_input=torch.zeros(shape, dtype=saved.dtype), captured=saved
        )
    except ArtifactError:
        if not path.is_file():
            raise
    try:
        program = torch.export.load(path)
        module = program.module()
        for mode in (
            "train",
            "eval",
        ):  # they raise; an exported network has one mode, the one it was exported in
            vars(module).pop(mode, None)
        example = next(iter(program.example_inputs[0])) if program.example_inputs else None
        return _Found(module, example_input=example if isinstance(example, Tensor) else None)
    except Exception as error:  # torch raises whatever its reader trips over
        raise ArtifactError(
            f"{path}: not an exported network ({type(error).__name__}: {error})"
        ) from error


def _factory(module: str, attribute: str) -> _Found:
    spec = f"{module}:{attribute}"
    if os.getcwd() not in sys.path:
        sys.path.append(
            os.getcwd()
        )  # as `python -m` would; last, so that nothing installed is shadowed
    try:
        made = importlib.import_module(module)
        for part in attribute.split("."):
            made = getattr(made, part)
        made = made() if callable(made) and not isinstance(made, nn.Module) else made
    except Exception as error:  # whatever the operator's own code raises
        raise CaptureError(f"network {spec!r}: {type(error).__name__}: {error}") from error
    return _protocol(made, spec)


def _protocol(made: Any, spec: str) -> _Found:
    """What a factory returned, read by the protocol in the module's docstring."""
    if isinstance(made, nn.Module):
        return _Found(made)
    if isinstance(made, tuple) and not hasattr(made, "model"):
        model, pre, classes, example = (*made, None, None, None, None)[:4]
    else:
        model = getattr(made, "model", None)
        pre, classes, example = (
            getattr(made, name, None) for name in ("preprocessing", "classes", "example_input")
        )
    if not isinstance(model, nn.Module) or not (pre is None or isinstance(pre, Preprocessing)):
        raise CaptureError(
            f"network {spec!r}: expected an nn.Module, or a model with preprocessing and classes, got "
            f"{type(made).__name__} with {type(model).__name__} and {type(pre).__name__}"
        )
    labels = None if classes is None else tuple(str(c) for c in classes)
    return _Found(model, pre, labels, example if isinstance(example, Tensor) else None)


def _preprocessing(
    found: _Found,
    *,
    input_size: int | tuple[int, int] | None,
    resize: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    interpolation: str | None,
    spec: str,
) -> Preprocessing:
    pre = found.preprocessing
    shape = None if found.example_input is None else tuple(found.example_input.shape[1:])
    if pre is None and input_size is None:
        if shape is None or len(shape) != 3:
            raise CaptureError(
                f"network {spec!r} does not say how large its inputs are: give input_size"
            )
        input_size = (shape[1], shape[2])
    if pre is None:
        height, width = _pair(input_size)
        grey = shape is not None and shape[0] == 1
        pre = Preprocessing(
            crop=(height, width), resize=round(min(height, width) * IMAGENET_RESIZE)
        )
        pre = replace(pre, mode="L", mean=(0.449,), std=(0.226,)) if grey else pre
    elif input_size is not None:
        height, width = _pair(input_size)
        scaled = (
            None if pre.resize is None else round(pre.resize * min(height, width) / min(pre.crop))
        )
        pre = replace(pre, crop=(height, width), resize=scaled)
    changes: dict[str, Any] = {}
    if resize is not None and resize < 0:
        raise DataError(f"resize: expected pixels, or 0 for none, got {resize}")
    if resize is not None:
        changes["resize"] = resize or None
    if interpolation is not None:
        changes["interpolation"] = interpolation
    for name, values in (("mean", mean), ("std", std)):
        if values is not None:
            changes[name] = tuple(float(v) for v in values)
            if len(values) != pre.shape[0] or not all(math.isfinite(v) for v in values):
                raise DataError(f"{name}: expected {pre.shape[0]} numbers, got {list(values)}")
    if std is not None and min(std) <= 0:
        raise DataError(f"std: expected numbers above 0, got {list(std)}")
    return replace(pre, **changes)


def _pair(size: Any) -> tuple[int, int]:
    """(height, width) of one number, of one in a list, or of two."""
    values = [int(v) for v in size] if isinstance(size, Iterable) else [int(size)]
    if len(values) not in (1, 2) or min(values) < 1:
        raise DataError(f"input size: expected pixels, or height and width, got {size}")
    return values[0], values[-1]


def _labels(classes: str | Path | Sequence[str]) -> tuple[str, ...]:
    return (
        read_classes(classes)
        if isinstance(classes, (str, Path))
        else tuple(str(c) for c in classes)
    )


def _count_scores(model: nn.Module, example: Tensor, spec: str) -> int:
    required = required_inputs(model)
    if len(required) > 1:
        raise CaptureError(
            f"network {spec!r}: expected a network of one input, this one needs {len(required)}: {', '.join(required)}"
        )
    try:
        with torch.inference_mode():
            scores = model(example)
    except Exception as error:  # whatever a network does with an input that does not fit
        raise CaptureError(
            f"network {spec!r} does not run on inputs of shape {tuple(example.shape)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != len(example):
        what = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise CaptureError(
            f"network {spec!r}: expected class scores of shape (N, classes), got {what}"
        )
    return scores.shape[1]
