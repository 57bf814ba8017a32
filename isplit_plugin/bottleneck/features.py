"""Head outputs and the full network's answers, computed once for several split points, within a bound of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..network import CapturedNetwork
from ..network.execution import activations, graph_and_nodes
from .photos import Photos

__all__ = ["Features", "Teacher", "gather", "teach"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """What a bottleneck learns from: the full network's scores (M, classes) and the labels (M,), -1 where unknown."""

    rows: Rows
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Activations at one split point of M photos.

    ``kept``: (M, ...) float16 (float32 where a value needs it), or ``None``: too large for the bound, so the head runs
    again for each batch.
    """

    split_point: str
    teacher: Teacher
    photos: Photos
    head: nn.Module
    kept: Tensor | None
    variance: float

    def __len__(self) -> int:
        return len(self.teacher.rows)

    def batch(self, places: Tensor, like: Tensor) -> Tensor:
        """Activations (n, ...) at these places among the M, on the device and of the type of ``like``."""
        if self.kept is not None:
            return self.kept[places].to(like)
        with torch.no_grad():
            activation: Tensor = self.head(
                self.photos.tensor(self.teacher.rows[places.numpy()], like)
            )
        return activation


def teach(net: CapturedNetwork, photos: Photos, rows: Rows, *, batch_size: int = 64) -> Teacher:
    """Run the full network over these photos."""
    like = _like(net)
    with torch.inference_mode():
        parts = [
            net.model(photos.tensor(part, like)).float().cpu() for part in _parts(rows, batch_size)
        ]
    scores = torch.cat(parts).clone()  # a normal tensor: inference tensors cannot enter a loss
    return Teacher(rows, scores, torch.from_numpy(photos.labels[rows]))


def gather(
    net: CapturedNetwork,
    photos: Photos,
    split_points: Sequence[str],
    teacher: Teacher,
    *,
    max_bytes: int = 2 << 30,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[list[Features]]:
    """The features of all split points, in as few passes over the photos as ``max_bytes`` allows.

    Yields groups that were kept together: use a group up before asking for the next one.
    """
    names = [net.split_point(name).name for name in split_points]
    count = len(teacher.rows)
    sizes = {name: count * int(np.prod(net.split_point(name).shape)) * 2 for name in names}
    while names:
        group = [names.pop(0)]
        while names and sum(sizes[n] for n in (*group, names[0])) <= max_bytes:
            group.append(names.pop(0))
        if sizes[group[0]] > max_bytes:
            yield [_not_kept(net, photos, group[0], teacher, batch_size)]
            continue
        yield _kept(net, photos, group, teacher, batch_size=batch_size, progress=progress)


def _kept(
    net: CapturedNetwork,
    photos: Photos,
    group: Sequence[str],
    teacher: Teacher,
    *,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> list[Features]:
    module, nodes = graph_and_nodes(net, group)
    like = _like(net)
    count = len(teacher.rows)
    store = {n: torch.empty(count, *net.split_point(n).shape, dtype=torch.float16) for n in group}
    moments = {n: np.zeros(3) for n in group}
    place = 0
    for part in _parts(teacher.rows, batch_size):
        values, _ = activations(module, nodes, photos.tensor(part, like))
        for name, value in values.items():
            found = value.float()
            moments[name] += (
                found.numel(),
                float(found.double().sum()),
                float(found.double().square().sum()),
            )
            if store[name].dtype == torch.float16 and float(found.abs().max()) > 65504:
                store[name] = store[name].float()
            store[name][place : place + len(part)] = found.cpu()
        place += len(part)
        if progress is not None:
            progress(place, count)
    return [
        Features(n, teacher, photos, net.bisect(n)[0], store[n], _variance(moments[n]))
        for n in group
    ]


def _not_kept(
    net: CapturedNetwork, photos: Photos, name: str, teacher: Teacher, batch_size: int
) -> Features:
    head = net.bisect(name)[0]
    with torch.no_grad():
        some: Tensor = head(photos.tensor(teacher.rows[:batch_size], _like(net))).double()
    return Features(name, teacher, photos, head, None, max(float(some.var(correction=0)), 1e-12))


def _variance(moments: npt.NDArray[np.float64]) -> float:
    n, first, second = moments
    return max(float(second / n - (first / n) ** 2), 1e-12)


def _like(net: CapturedNetwork) -> Tensor:
    return torch.empty(0, dtype=net.dtype, device=net.device)


def _parts(rows: Rows, size: int) -> list[Rows]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
