"""Predictors: which split point would keep the most accuracy, before anything is trained.

A predictor is a function of a :class:`PredictorContext`. It returns one value for each split
point, shape (P,), or one for each calibration photo and split point, shape (I, P), whose mean
counts. **A larger value predicts a higher accuracy of a bottleneck trained there.**
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ..bottleneck import Grid, Photos, input_batches
from ..errors import SplitPointError, UnknownNameError
from ..network import CapturedNetwork
from ..registry import Registry, named_callable
from ..schema import SplitPoint
from .distortions import DISTORTIONS, FITTED
from .ranks import average_ranks

__all__ = [
    "DEPTH",
    "PREDICTORS",
    "Predictor",
    "PredictorContext",
    "get",
    "mean_over_photos",
    "profile_predictions",
    "register",
]

Array = npt.NDArray[np.float64]
Predictor = Callable[["PredictorContext"], Array]
"""A function from a context to one value for each split point, larger where it predicts a higher
accuracy."""

DEPTH: Final = "depth"
PREDICTORS: Final[Registry[Predictor]] = Registry("isplit.predictors", named_callable)
"""All predictors by name. Other packages offer theirs as entry points of the group
``isplit.predictors``: the entry point's name is the predictor's, its object the function."""

_FIT_PHOTOS: Final = 128
"""How many photos a distortion is fitted on."""


def register(name: str, predictor: Predictor) -> None:
    """Add a predictor under a name; an existing one of that name is replaced."""
    PREDICTORS[name] = predictor


def get(name: str) -> Predictor:
    """A registered predictor. Raises UnknownNameError."""
    if name not in PREDICTORS:
        raise UnknownNameError.of(name, PREDICTORS)
    return PREDICTORS[name]


@dataclass(frozen=True, eq=False)
class PredictorContext:
    """What a predictor may use: the network, split points, and I calibration photos.

    Attributes:
        net: the network.
        points: the split points to predict for, P of them.
        photos: where the calibration photos come from.
        rows: the calibration photos, as rows of ``photos``, shape (I,).
        batch_size: photos in a batch.
    """

    net: CapturedNetwork
    points: tuple[SplitPoint, ...]
    photos: Photos
    rows: npt.NDArray[np.int64]
    batch_size: int = 32
    _distorted_scores: dict[str, torch.Tensor] = field(default_factory=dict, init=False)

    @cached_property
    def inputs(self) -> list[torch.Tensor]:
        """The calibration photos as network inputs, in batches."""
        return list(input_batches(self.net, self.photos, self.rows, self.batch_size))

    @cached_property
    def scores(self) -> torch.Tensor:
        """The full network's scores (I, classes)."""
        with torch.inference_mode():
            return torch.cat([self.net.model(x).float().cpu() for x in self.inputs])

    @property
    def top1(self) -> npt.NDArray[np.int64]:
        """The full network's top-1 classes (I,)."""
        return np.asarray(self.scores.argmax(dim=1).numpy(), dtype=np.int64)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The true classes (I,); the full network's top-1 class for a photo without label."""
        labels = self.photos.labels[self.rows]
        return np.where(labels >= 0, labels, self.top1)

    def distorted_scores(self, distortion: str) -> torch.Tensor:
        """Scores (P, I, classes) if the activation at each split point is distorted.

        They are computed once for each distortion.
        """
        if distortion not in self._distorted_scores:
            scores = [self._distorted_scores_at(point, distortion) for point in self.points]
            self._distorted_scores[distortion] = torch.stack(scores)
        return self._distorted_scores[distortion]

    def _distorted_scores_at(self, point: SplitPoint, distortion: str) -> torch.Tensor:
        grid = Grid.of(point)
        head, tail = self.net.bisect(point.name)
        fit_batches = -(-_FIT_PHOTOS // self.batch_size) if distortion in FITTED else 1
        scores = []
        with torch.inference_mode():
            maps = [grid.split(head(x))[0] for x in self.inputs[:fit_batches]]
            distort = DISTORTIONS[distortion](torch.cat(maps))
            for x in self.inputs:
                batch, prefix = grid.split(head(x))
                activation = grid.join(distort(batch), prefix).contiguous()
                scores.append(tail(activation).float().cpu())
        return torch.cat(scores)


def mean_over_photos(values: Array) -> Array:
    """A predictor's values (P,) from its values (P,) or (I, P)."""
    return values if values.ndim == 1 else np.asarray(values.mean(axis=0))


def depth(context: PredictorContext) -> Array:
    """The number of the split point: deeper is better."""
    return np.arange(len(context.points), dtype=np.float64)


def size(context: PredictorContext) -> Array:
    """Minus the bytes of the activation: the size baseline (CDE) of the I-SPLIT paper."""
    return -np.asarray([point.nbytes for point in context.points], dtype=np.float64)


def cui(context: PredictorContext, *, target: str) -> Array:
    """CUI, by the gradient of the "predicted" or the "true" class's score."""
    names = [point.name for point in context.net.split_points]
    columns = [names.index(point.name) for point in context.points]
    labels = torch.split(torch.from_numpy(context.labels), context.batch_size)
    values = []
    for x, batch_labels in zip(context.inputs, labels, strict=True):
        classes = batch_labels.numpy() if target == "true" else None
        values.append(context.net.importance(x, classes).values[:, columns])
    return np.concatenate(values).astype(np.float64)


def kl(context: PredictorContext, *, distortion: str) -> Array:
    """Minus the KL divergence of the distorted from the full network's probabilities."""
    full = F.log_softmax(context.scores, dim=1)
    distorted = F.log_softmax(context.distorted_scores(distortion), dim=2)
    return -np.asarray((full.exp() * (full - distorted)).sum(dim=2).T.numpy(), dtype=np.float64)


def drop(context: PredictorContext, *, distortion: str) -> Array:
    """Minus the drop of the true class's log probability under a distortion."""
    photos = torch.arange(len(context.rows))
    labels = torch.from_numpy(context.labels)
    full = F.log_softmax(context.scores, dim=1)[photos, labels]
    distorted = F.log_softmax(context.distorted_scores(distortion), dim=2)[:, photos, labels]
    return -np.asarray((full - distorted).T.numpy(), dtype=np.float64)


def agreement(context: PredictorContext, *, distortion: str) -> Array:
    """Whether the top-1 class survives a distortion: 1 or 0."""
    top1 = context.distorted_scores(distortion).argmax(dim=2).T.numpy()
    return np.asarray(top1 == context.top1[:, None], dtype=np.float64)


def with_depth(context: PredictorContext, *, other: Predictor) -> Array:
    """The sum of the ranks by depth and by another predictor."""
    return average_ranks(depth(context)) + average_ranks(mean_over_photos(other(context)))


register(DEPTH, depth)
register("size", size)
register("cui", partial(cui, target="predicted"))
register("cui-true", partial(cui, target="true"))
for _name in DISTORTIONS:
    register(f"kl-{_name}", partial(kl, distortion=_name))
for _name in ("pool2", "pool4", "linear"):
    register(f"drop-{_name}", partial(drop, distortion=_name))
    register(f"agree-{_name}", partial(agreement, distortion=_name))
register("depth+kl-pool2", partial(with_depth, other=partial(kl, distortion="pool2")))
register("depth+kl-linear", partial(with_depth, other=partial(kl, distortion="linear")))


def profile_predictions(
    net: CapturedNetwork, photos: Photos, names: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    """The values of these predictors for ``Profile.predictions``, means over all photos.

    Each predictor gets one value for every split point of the network. It is NaN except at block
    outputs with more than one position. Raises UnknownNameError.
    """
    predictors = {name: get(name) for name in names}
    points = tuple(point for point in net.split_points if point.is_block and _has_positions(point))
    context = PredictorContext(net, points, photos, np.arange(len(photos)))
    predictions = {}
    for name, predictor in predictors.items():
        by_point = dict(
            zip((p.name for p in points), mean_over_photos(predictor(context)), strict=True)
        )
        predictions[name] = tuple(
            float(by_point.get(point.name, np.nan)) for point in net.split_points
        )
    return predictions


def _has_positions(point: SplitPoint) -> bool:
    try:
        grid = Grid.of(point)
    except SplitPointError:
        return False
    return grid.height * grid.width > 1
