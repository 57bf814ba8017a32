"""Loading a network by its spec, with weights, preprocessing and class names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..errors import CaptureError, DataError
from ..schema import Preprocessing
from .captured_network import CapturedNetwork
from .graphs.capturing import capture, required_inputs
from .sources import SourceNetwork, open_source
from .weights import load_weights, read_classes

__all__ = ["LoadedNetwork", "load_network"]

_RESIZE_TO_CROP: Final = 256 / 224
"""ImageNet's ratio of the resized shorter side to the crop, for networks that do not give one."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedNetwork:
    """A network in eval mode with all that is needed to classify photos.

    Attributes:
        model: input (N, ...) -> scores (N, classes).
        example_input: a batch that the network accepts.
        preprocessing: from a photo to the network's input.
        classes: the class names, in the order of the scores.
        captured: the captured network, if it was loaded from a file of one.
    """

    model: nn.Module
    example_input: Tensor
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    captured: CapturedNetwork | None = None

    def capture(self) -> CapturedNetwork:
        """The captured network. Raises CaptureError."""
        return self.captured or capture(self.model, self.example_input)


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
    """Load the network that a spec names (:mod:`.sources` lists the specs).

    The arguments take precedence over what the source says of the network. If neither gives a mean
    and standard deviation, they are ImageNet's; if neither gives an input size, it is an error.

    Parameters:
        spec: for example ``torchvision:resnet50`` or ``package.module:factory``.
        weights: a ``.safetensors`` file or a PyTorch state dict, which is read without running
            code and cast to the network's precision.
        classes: class names, or a file of them (:func:`.weights.read_classes`).
        input_size: pixels, or height and width, of the crop. Without ``resize``, the resize keeps
            its ratio to the crop.
        resize: pixels of the shorter side before the crop; 0 for no resize.
        mean, std: one number for each channel, for inputs scaled to [0, 1].
        interpolation: of the resize: "bilinear", "bicubic" or "nearest".

    Raises:
        UnknownModelError: torchvision or timm has no such network.
        CaptureError: there is no such factory, or the network is no classifier of images.
        ArtifactError: a file cannot be read, or the weights do not fit.
        DataError: the class names do not match the scores, or the preprocessing makes no sense.
    """
    names = None if classes is None else _class_names(classes)
    source = open_source(str(spec), None if names is None else len(names))
    model = source.model.eval()
    if weights is not None:
        # Only networks of these libraries are built with the number of classes that is asked for.
        library = str(spec).startswith(("torchvision:", "timm:"))
        load_weights(model, weights, any_classes=library)
    preprocessing = _override(
        _base_preprocessing(source, input_size, str(spec)),
        resize=resize,
        mean=mean,
        std=std,
        interpolation=interpolation,
    )
    example = source.example_input
    if example is None or tuple(example.shape[1:]) != preprocessing.shape:
        generator = torch.Generator().manual_seed(0)
        example = torch.rand(1, *preprocessing.shape, generator=generator)
    count = _count_scores(model, example, str(spec))
    names = names or source.classes or tuple(str(class_id) for class_id in range(count))
    if len(names) != count:
        raise DataError(f"{spec}: {count} scores, but {len(names)} class names")
    return LoadedNetwork(model, example, preprocessing, names, source.captured)


def _class_names(classes: str | Path | Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, (str, Path)):
        return read_classes(classes)
    return tuple(str(name) for name in classes)


def _base_preprocessing(
    source: SourceNetwork, input_size: int | tuple[int, int] | None, spec: str
) -> Preprocessing:
    """The preprocessing of the source, or ImageNet's, with the crop ``input_size``."""
    preprocessing = source.preprocessing
    if preprocessing is not None:
        if input_size is None:
            return preprocessing
        crop = _height_and_width(input_size)
        resize = preprocessing.resize
        if resize is not None:
            resize = round(resize * min(crop) / min(preprocessing.crop))
        return replace(preprocessing, crop=crop, resize=resize)
    shape = () if source.example_input is None else tuple(source.example_input.shape[1:])
    if input_size is None:
        if len(shape) != 3:
            raise CaptureError(
                f"network {spec!r} does not say how large its inputs are: give input_size"
            )
        input_size = (shape[1], shape[2])
    crop = _height_and_width(input_size)
    preprocessing = Preprocessing(crop=crop, resize=round(min(crop) * _RESIZE_TO_CROP))
    if shape[:1] == (1,):
        return replace(preprocessing, mode="L", mean=(0.449,), std=(0.226,))
    return preprocessing


def _override(
    preprocessing: Preprocessing,
    *,
    resize: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    interpolation: str | None,
) -> Preprocessing:
    changes: dict[str, Any] = {}
    if resize is not None:
        if resize < 0:
            raise DataError(f"resize: expected pixels, or 0 for none, got {resize}")
        changes["resize"] = resize or None
    if interpolation is not None:
        changes["interpolation"] = interpolation
    channels = preprocessing.shape[0]
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        if len(values) != channels or not all(math.isfinite(value) for value in values):
            raise DataError(f"{name}: expected {channels} numbers, got {list(values)}")
        changes[name] = tuple(float(value) for value in values)
    if std is not None and min(std) <= 0:
        raise DataError(f"std: expected numbers above 0, got {list(std)}")
    return replace(preprocessing, **changes)


def _height_and_width(size: int | Iterable[int]) -> tuple[int, int]:
    values = [int(value) for value in size] if isinstance(size, Iterable) else [int(size)]
    if len(values) not in (1, 2) or min(values) < 1:
        raise DataError(f"input size: expected pixels, or height and width, got {size}")
    return values[0], values[-1]


def _count_scores(model: nn.Module, example: Tensor, spec: str) -> int:
    """Run the network once. Raises CaptureError if it is no classifier of one input."""
    required = required_inputs(model)
    if len(required) > 1:
        raise CaptureError(
            f"network {spec!r}: expected a network with one input, got {len(required)} inputs: "
            + ", ".join(required)
        )
    try:
        with torch.inference_mode():
            scores = model(example)
    except Exception as error:  # a network can raise anything for an input that does not fit
        raise CaptureError(
            f"network {spec!r} does not run on inputs of shape {tuple(example.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != len(example):
        returned = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise CaptureError(
            f"network {spec!r}: expected class scores of shape (N, classes), got {returned}"
        )
    return scores.shape[1]
