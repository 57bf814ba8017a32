"""Exits as small networks with predefined sparsity, beside the linear exit.

``python -m benchmarks exit_networks --data FOLDER`` distils networks with one hidden layer from the
full network's answers, on the same pooled activations as :mod:`.exits`, in its own domain. A unit
has a fixed number of inputs, drawn before training: a share of all, the density (predefined
sparsity: Dey et al., *IEEE JETCAS* 2019; for split computing Capogrosso et al., 2024).

A third of the photos teaches both kinds. On half of them a threshold of the margin is chosen, the
loosest one with which no more than the tolerance disagrees, and on the last sixth share answered and
disagreement are measured. Rows are means over random splits of the photos. Times are those of numpy
for one photo, from the pooled activation on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from isplit_plugin.exits import NONE, Exit

from .exit_traffic import F64, I64, Traffic, chosen_photos, networks, traffic
from .exits import MIN_PHOTOS, fit
from .harness import Row, row, table

DENSITIES: Final = (1.0, 0.5, 0.25, 0.1)
HIDDEN: Final = 64
STEPS: Final = 400
BATCH: Final = 64
WEIGHT_DECAY: Final = 1e-2
TOLERANCES: Final = (0.01, 0.02)
SPLITS: Final = 3
TIMED: Final = 200

F32 = npt.NDArray[np.float32]
Answers = tuple[I64, F64]
"""(N,) classes and (N,) margins."""


@dataclass(frozen=True)
class SmallNetwork:
    """One hidden layer, its weights sparse.

    Attributes:
        class_ids: (K,). center, scale: (F,), as of the linear exit.
        inputs: (H, d), which features each hidden unit has. first: (H, d) its weights.
        hidden: (K, e), which hidden units each class has. second: (K, e) its weights.
        bias: (H,) and (K,).
    """

    class_ids: I64
    center: F32
    scale: F32
    inputs: I64
    first: F32
    hidden: I64
    second: F32
    bias: tuple[F32, F32]

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.first.size + self.second.size + sum(each.size for each in self.bias)

    def answers(self, features: npt.NDArray[np.floating]) -> Answers:
        """What it says of features (N, F)."""
        if len(features) > BATCH:  # what each unit has of each photo is large
            parts = [self.answers(part) for part in _parts(features)]
            return np.concatenate([c for c, _ in parts]), np.concatenate([m for _, m in parts])
        x = (features - self.center) * self.scale
        units = np.maximum((x[:, self.inputs] * self.first).sum(axis=2) + self.bias[0], 0)
        scores = (units[:, self.hidden] * self.second).sum(axis=2) + self.bias[1]
        two = np.partition(scores, -2, axis=1)[:, -2:]
        return self.class_ids[scores.argmax(axis=1)], two[:, 1] - two[:, 0]


def _parts(features: npt.NDArray[np.floating]) -> list[npt.NDArray[np.floating]]:
    return [features[start : start + BATCH] for start in range(0, len(features), BATCH)]


def run(quick: bool = False) -> list[Row]:
    """Rows for each network, split point, and density."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows: list[Row] = []
        for name, loaded in networks():
            photos = chosen_photos(name, quick=quick)
            if photos:
                seen = traffic(name, loaded, photos)
                for point in seen.features:
                    rows += _point_rows(name, seen, point, splits=1 if quick else SPLITS)
                    print(table(rows[-len(DENSITIES) - 1 :]), file=sys.stderr, flush=True)
        return rows
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Result:
    """What one exit did in one split: by tolerance the share answered, and of it what disagrees."""

    shares: list[float]
    wrong: list[float]
    agreement: float
    parameters: int
    ms: float


def _point_rows(name: str, seen: Traffic, point: str, *, splits: int) -> list[Row]:
    features, answers = seen.features[point][seen.rest :], seen.own_answers()[seen.rest :]
    results: dict[str, list[Result]] = {}
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(len(answers))
        z, full = features[order], answers[order]
        first = len(full) // 3
        kept = _classes(full[:first])
        if len(kept) < 2:
            return [row(f"{name} {point}", 0.0, "share", expected="no exit: few photos")]
        linear = fit(point, z[:first], full[:first])
        size = sum(each.size for each in (linear.weights, linear.bias, linear.means))
        results.setdefault("linear", []).append(_result(_linear(linear), size, z, full))
        for density in DENSITIES:
            small = distilled(linear, kept, z[:first], full[:first], density, seed)
            results.setdefault(f"density {density:g}", []).append(
                _result(small.answers, small.parameters, z, full)
            )
    return [_row(f"{name} {point}, {words}", each) for words, each in results.items()]


def _row(label: str, results: list[Result]) -> Row:
    shares = np.mean([each.shares for each in results], axis=0).tolist()
    wrong = np.mean([each.wrong for each in results], axis=0).tolist()
    ms = median(each.ms for each in results)
    parameters = results[0].parameters
    agreement = fmean(each.agreement for each in results)
    told = ", ".join(
        f"{share:.1%} at {tolerance:.0%} ({each:.1%} disagree)"
        for share, each, tolerance in zip(shares, wrong, TOLERANCES, strict=True)
    )
    return row(
        f"{label}: agreement", agreement, "share", shares=shares, wrong=wrong, ms=ms,
        parameters=parameters, expected=f"answers {told}; {parameters:,} numbers, {ms:.3f} ms",
    )  # fmt: skip


def _classes(answers: I64) -> I64:
    ids, photos = np.unique(answers, return_counts=True)
    return ids[photos >= MIN_PHOTOS]


def _linear(exit_: Exit) -> Callable[[npt.NDArray[np.floating]], Answers]:
    def answers(features: npt.NDArray[np.floating]) -> Answers:
        said = exit_.answers(features)
        margins = [each.margin if each.class_id != NONE else -1.0 for each in said]
        return np.array([each.class_id for each in said]), np.array(margins)

    return answers


def _result(
    answer: Callable[[npt.NDArray[np.floating]], Answers], parameters: int, z: F64, full: I64
) -> Result:
    first, last = len(full) // 3, len(full) - len(full) // 6
    said, margins = answer(z[first:])
    agrees, shadow = said == full[first:], last - first
    shares, wrong = [], []
    for tolerance in TOLERANCES:
        least = least_margin(margins[:shadow], agrees[:shadow], tolerance)
        exits = margins[shadow:] >= least
        shares.append(float(exits.mean()))
        wrong.append(float((~agrees[shadow:][exits]).mean()) if exits.any() else 0.0)
    one = z[:1].astype(np.float32)
    times = []
    for _ in range(TIMED):
        started = time.perf_counter()
        answer(one)
        times.append(time.perf_counter() - started)
    return Result(shares, wrong, float(agrees[shadow:].mean()), parameters, 1e3 * median(times))


def least_margin(margins: F64, agrees: npt.NDArray[np.bool_], tolerance: float) -> float:
    """The loosest margin with which no more than the tolerance disagrees; infinite without one."""
    order = np.argsort(-margins, kind="stable")
    within = np.flatnonzero((~agrees[order]).cumsum() <= tolerance * np.arange(1, len(order) + 1))
    return float(margins[order[within[-1]]]) if len(within) else float("inf")


def distilled(  # noqa: PLR0917
    linear: Exit, kept: I64, z: F64, full: I64, density: float, seed: int
) -> SmallNetwork:
    """Trained on the full network's answers that are among the classes."""
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    known = np.isin(full, kept)
    x = torch.from_numpy((z[known] - linear.center) * linear.scale).float()
    labels = torch.from_numpy(np.searchsorted(kept, full[known]))
    first, second = nn.Linear(x.shape[1], HIDDEN), nn.Linear(HIDDEN, len(kept))
    inputs, hidden = (_fan_in(random, layer, density) for layer in (first, second))
    masks = [_mask(layer, chosen) for layer, chosen in ((first, inputs), (second, hidden))]
    weights = [*first.parameters(), *second.parameters()]
    optimizer = torch.optim.AdamW(weights, 3e-3, weight_decay=WEIGHT_DECAY)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / STEPS)
        some = torch.from_numpy(random.integers(0, len(x), BATCH))
        units = nn.functional.linear(x[some], first.weight * masks[0], first.bias).relu()
        scores = nn.functional.linear(units, second.weight * masks[1], second.bias)
        loss = nn.functional.cross_entropy(scores, labels[some], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    both = (first.bias.detach().numpy(), second.bias.detach().numpy())
    return SmallNetwork(
        kept,
        linear.center,
        linear.scale,
        inputs,
        np.take_along_axis(first.weight.detach().numpy(), inputs, axis=1),
        hidden,
        np.take_along_axis(second.weight.detach().numpy(), hidden, axis=1),
        both,
    )


def _fan_in(random: np.random.Generator, layer: nn.Linear, density: float) -> I64:
    """(units, inputs): the same number for each unit; weights start larger where it is small."""
    number = max(1, round(density * layer.in_features))
    with torch.no_grad():
        layer.weight *= (layer.in_features / number) ** 0.5
    every = [random.permutation(layer.in_features)[:number] for _ in range(layer.out_features)]
    return np.sort(np.stack(every), axis=1)


def _mask(layer: nn.Linear, chosen: I64) -> torch.Tensor:
    mask = torch.zeros_like(layer.weight)
    return mask.scatter_(1, torch.from_numpy(chosen), 1.0)
