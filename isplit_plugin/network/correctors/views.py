"""What correctors learn from: activations of calibration photos and of crops of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor

from ... import image as im
from ...errors import DataError, ImageError
from ...schema import Preprocessing
from ..captured_network import CapturedNetwork
from ..execution import activations

MAX_BYTES: Final = 1024 * 1024 * 1024
"""Memory for the activations of one split point; beyond it, photos are left out evenly."""

_SMALLEST_CROP: Final = 0.6
"""The smallest side of a crop, as a share of the photo's."""


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """Activations at one split point with the full network's answers.

    Attributes:
        values: (N, *shape), half precision, on the CPU.
        answers: (N, classes), log probabilities.
        numbers: (N,), the calibration photo of each view.
        whole: (N,), bool: whether the view is the photo as it is measured, not a crop of it.
    """

    values: Tensor
    answers: Tensor
    numbers: npt.NDArray[np.int64]
    whole: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.numbers)


def collect_views(
    net: CapturedNetwork,
    split_point: str,
    images: Sequence[tuple[im.Image, int | None]],
    preprocessing: Preprocessing,
    *,
    crops: int,
    batch_size: int,
    seed: int,
    report: Callable[[int], None],
) -> Views:
    """Every photo and ``crops`` random crops of it, half of them mirrored.

    Inputs that are preprocessed already have no crops. Images that cannot be read, and those whose
    activations or answers are not finite, are left out. ``report`` gets the number of photos done.

    Raises DataError where none is left.
    """
    rng = np.random.default_rng([seed, 1])
    item_bytes = 2 * int(np.prod(net.split_point(split_point).shape))
    most = max(MAX_BYTES // (item_bytes * (1 + crops)), 2)
    chosen = np.unique(np.linspace(0, len(images) - 1, min(most, len(images))).astype(int))
    values: list[Tensor] = []
    answers: list[Tensor] = []
    places: list[tuple[int, bool]] = []
    inputs: list[npt.NDArray[np.float32]] = []
    pending: list[tuple[int, bool]] = []

    def flush() -> None:
        x = torch.from_numpy(np.stack(inputs)).to(net.device, net.dtype)
        tensors, scores = activations(net, [split_point], x)
        value = tensors[split_point].half().cpu()
        answer = torch.log_softmax(scores.float(), dim=1).cpu()
        finite = value.flatten(1).isfinite().all(dim=1) & answer.isfinite().all(dim=1)
        values.append(value[finite])
        answers.append(answer[finite])
        places.extend(place for place, kept in zip(pending, finite.tolist(), strict=True) if kept)
        inputs.clear()
        pending.clear()

    for done, number in enumerate(chosen.tolist(), start=1):
        try:
            for view, whole in _views(images[number][0], crops, rng):
                inputs.append(im.preprocess(view, preprocessing))
                pending.append((number, whole))
        except ImageError:
            continue
        if len(inputs) >= batch_size:
            flush()
            report(done)
    if inputs:
        flush()
    if not places:
        raise DataError("no usable images to train a corrector on")
    return Views(
        torch.cat(values),
        torch.cat(answers),
        np.array([number for number, _ in places], np.int64),
        np.array([whole for _, whole in places], np.bool_),
    )


def _views(image: im.Image, crops: int, rng: np.random.Generator) -> list[tuple[im.Image, bool]]:
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        return [(image, True)]
    photo = im.load(image)
    return [(photo, True), *((_crop(photo, rng), False) for _ in range(crops))]


def _crop(photo: PIL.Image.Image, rng: np.random.Generator) -> PIL.Image.Image:
    share = rng.uniform(_SMALLEST_CROP, 1)
    width, height = max(int(photo.width * share), 1), max(int(photo.height * share), 1)
    left = int(rng.integers(0, photo.width - width + 1))
    top = int(rng.integers(0, photo.height - height + 1))
    cropped = photo.crop((left, top, left + width, top + height))
    mirrored = rng.random() < 0.5
    return cropped.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else cropped
