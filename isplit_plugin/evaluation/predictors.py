"""Predictors of a split's accuracy before anything is trained: one small registry.

A predictor is a function of a :class:`Context` and a name. It returns a value for every candidate split point, (P,),
or for every calibration photo and point, (I, P), whose mean counts: overall, or over the photos of a class. **Larger
means: a bottleneck here is predicted to keep more accuracy.**
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ..bottleneck import Photos
from ..bottleneck.grid import Grid
from ..errors import SplitPointError, UnknownNameError
from ..network import CapturedNetwork
from ..schema import SplitPoint
from .channels import CHANNELS, FITTED
from .ranks import average_ranks

__all__ = ["DEPTH", "PREDICTORS", "Context", "Predictor", "for_profile", "get", "register"]

Array = npt.NDArray[np.float64]
Predictor = Callable[["Context"], Array]
DEPTH: Final = "depth"
FIT_PHOTOS: Final = 128
"""Channels that are fitted are fitted on so many photos."""


@dataclass(frozen=True, eq=False)
class Context:
    """What predictors may look at: the network, its candidate split points, and calibration photos with labels.

    ``rows``: the calibration photos among ``photos``. ``labels`` are -1 where unknown.
    """

    net: CapturedNetwork
    points: tuple[SplitPoint, ...]
    photos: Photos
    rows: npt.NDArray[np.int64]
    batch_size: int = 32

    @cached_property
    def inputs(self) -> list[torch.Tensor]:
        """The photos as network inputs, in batches."""
        like = torch.empty(0, dtype=self.net.dtype, device=self.net.device)
        size = self.batch_size
        return [
            self.photos.tensor(self.rows[i : i + size], like)
            for i in range(0, len(self.rows), size)
        ]

    @cached_property
    def scores(self) -> torch.Tensor:
        """The full network's scores (I, classes)."""
        with torch.inference_mode():
            return torch.cat([self.net.model(x).float().cpu() for x in self.inputs])

    @property
    def top(self) -> npt.NDArray[np.int64]:
        """The full network's top-1 classes (I,)."""
        return np.asarray(self.scores.argmax(dim=1).numpy(), dtype=np.int64)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """True classes (I,); the predicted one where no label is known."""
        known = self.photos.labels[self.rows]
        return np.where(known >= 0, known, self.top)

    @cached_property
    def _through(self) -> dict[str, torch.Tensor]:
        return {}

    def through(self, channel: str) -> torch.Tensor:
        """Scores (P, I, classes) when the activation at each point passes this lossy channel; computed once."""
        if channel not in self._through:
            self._through[channel] = torch.stack(
                [self._pass(channel, point) for point in self.points]
            )
        return self._through[channel]

    def _pass(self, channel: str, point: SplitPoint) -> torch.Tensor:
        grid = Grid.of(point)
        head, tail = self.net.bisect(point.name)
        with torch.inference_mode():
            fitting = -(-FIT_PHOTOS // self.batch_size) if channel in FITTED else 1
            run = CHANNELS[channel](
                torch.cat([grid.split(head(x))[0] for x in self.inputs[:fitting]])
            )
            found = []
            for x in self.inputs:
                maps, prefix = grid.split(head(x))
                found.append(tail(grid.join(run(maps), prefix).contiguous()).float().cpu())
        return torch.cat(found)


PREDICTORS: Final[dict[str, Predictor]] = {}


def register(name: str, predictor: Predictor) -> None:
    """Add a predictor under a name."""
    PREDICTORS[name] = predictor


def get(name: str) -> Predictor:
    """Raises UnknownNameError."""
    if name not in PREDICTORS:
        raise UnknownNameError.of(name, PREDICTORS)
    return PREDICTORS[name]


def depth(context: Context) -> Array:
    """The number of the split point: later is better. What every other predictor must beat."""
    return np.arange(len(context.points), dtype=np.float64)


def size(context: Context) -> Array:
    """The raw activation's bytes, fewer is better: the size baseline (CDE) of I-SPLIT."""
    return -np.asarray([point.nbytes for point in context.points], dtype=np.float64)


def cui(context: Context, *, target: str) -> Array:
    """I-SPLIT's cumulative importance; ``target``: the "predicted" or the "true" class's score is differentiated."""
    columns = [p.name for p in context.net.split_points]
    keep = [columns.index(point.name) for point in context.points]
    labels, done, found = context.labels, 0, []
    for x in context.inputs:
        goal = labels[done : done + len(x)] if target == "true" else None
        found.append(context.net.importance(x, goal).values[:, keep])
        done += len(x)
    return np.concatenate(found).astype(np.float64)


def kl(context: Context, *, channel: str) -> Array:
    """Minus the KL divergence of the answer through a lossy channel from the full network's answer."""
    full = F.log_softmax(context.scores, dim=1)
    lossy = F.log_softmax(context.through(channel), dim=2)
    return -np.asarray((full.exp() * (full - lossy)).sum(dim=2).T.numpy(), dtype=np.float64)


def drop(context: Context, *, channel: str) -> Array:
    """Minus the drop of the correct class's log probability through a lossy channel."""
    rows = torch.from_numpy(context.labels)
    full = F.log_softmax(context.scores, dim=1)[torch.arange(len(rows)), rows]
    lossy = F.log_softmax(context.through(channel), dim=2)[:, torch.arange(len(rows)), rows]
    return -np.asarray((full - lossy).T.numpy(), dtype=np.float64)


def agreement(context: Context, *, channel: str) -> Array:
    """Whether the top-1 class survives a lossy channel."""
    return np.asarray(
        (context.through(channel).argmax(dim=2).T.numpy() == context.top[:, None]), dtype=np.float64
    )


def with_depth(context: Context, *, other: Predictor) -> Array:
    """The mean of two ranks, depth and another predictor's overall mean: one choice for all classes."""
    value = other(context)
    return average_ranks(depth(context)) + average_ranks(
        value if value.ndim == 1 else value.mean(axis=0)
    )


def for_profile(
    net: CapturedNetwork,
    photos: Photos,
    names: Sequence[str],
    *,
    rows: npt.NDArray[np.int64] | None = None,
) -> dict[str, tuple[float, ...]]:
    """Predictors' overall means for ``Profile.predictions``: a value for every split point of the network, NaN but for
    the block outputs with positions. Raises UnknownNameError."""
    points = []
    for point in net.split_points:
        if point.is_block:
            try:
                grid = Grid.of(point)
            except SplitPointError:
                continue
            if grid.height * grid.width > 1:
                points.append(point)
    chosen = {name: get(name) for name in names}
    context = Context(net, tuple(points), photos, np.arange(len(photos)) if rows is None else rows)
    place = {point.name: i for i, point in enumerate(net.split_points)}
    found = {}
    for name, predictor in chosen.items():
        values = predictor(context)
        row = [float("nan")] * len(place)
        for point, value in zip(
            points, values if values.ndim == 1 else values.mean(axis=0), strict=True
        ):
            row[place[point.name]] = float(value)
        found[name] = tuple(row)
    return found


register(DEPTH, depth)
register("size", size)
register("cui", partial(cui, target="predicted"))
register("cui-true", partial(cui, target="true"))
for _channel in CHANNELS:
    register(f"kl-{_channel}", partial(kl, channel=_channel))
for _channel in ("pool2", "pool4", "linear"):
    register(f"drop-{_channel}", partial(drop, channel=_channel))
    register(f"agree-{_channel}", partial(agreement, channel=_channel))
register("depth+kl-pool2", partial(with_depth, other=partial(kl, channel="pool2")))
register("depth+kl-linear", partial(with_depth, other=partial(kl, channel="linear")))
