"""Is the transform of the codec ``dct`` better when it is trained with the rate in the loss?

``python -m benchmarks trained_transform --data FOLDER`` fits the transform of a cut in closed form and
trains it from there (:mod:`.trained_code`), on the same photos, for the qualities 1, 3 and 5: encoder,
decoder and all steps, with the divergence of the answer plus lambda times the bits as the loss. Lambda
is the slope of the closed form's own curve at that quality. What was trained is written back as a
transform, with tables and centroids of its own from the product's fitting, and measured with the
product's coder on other photos. The rows have the bytes of one quality by those of the closed form at
the same mean divergence, on a line between its eight qualities, with 95 % intervals of a paired
bootstrap over the photos.

Two rivals change nothing at the device: the decoder alone, trained as long, and the closed form's
decoder times one number, chosen on the photos to fit on. ``--photo-counts``, ``--cuts`` and ``--study``
are those of ``transform``.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from isplit_plugin.network.correctors.views import Views, collect_views
from isplit_plugin.network.transforms.choosing import METRICS, Scales, Steps
from isplit_plugin.network.transforms.closed_form import Basis, band_means
from isplit_plugin.network.transforms.finishing import finished_transform
from isplit_plugin.wire import Transform, ideal_bits

from .ablation import Material, Part, fit, material_of
from .harness import Row, row, table
from .subjects import drawn_photos, networks, one_thread
from .trained_code import TrainedCode, step_of
from .transform import COUNTS, DEFAULT_COUNTS, Measured, bytes_at, coded

DEFAULT_CUTS: Final = {"efficientnet-lite0": ("_blocks.5", "_blocks.4")}
TRAINED: Final = (1, 3, 5)
"""The qualities that transforms are trained for."""
GAINS: Final = (1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.7, 2.0, 2.5)
BATCH: Final = 16
CHECKED: Final = 128
"""Photos to fit on that the slope and the gain are taken from."""
RESAMPLES: Final = 500
EVERYTHING: Final = ("encoder", "decoder", "widths")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Schedule:
    """Of a training: so many steps of Adam, with a cosine from ``rate``.

    Attributes:
        crops: of each photo, besides the photo itself.
    """

    steps: int
    rate: float
    crops: int


SCHEDULES: Final = {"efficientnet-lite0": Schedule(120, 3e-4, 2)}
OTHERS: Final = Schedule(600, 1e-2, 0)
"""Of the networks of the study, which are small."""


def run(quick: bool = False) -> list[Row]:
    """Rows for each network and cut with channels in front."""
    counts = "24,8" if quick else os.environ.get(COUNTS, DEFAULT_COUNTS)
    fitted, measured = (int(word) for word in counts.split(","))
    files = drawn_photos(fitted + measured)
    rows: list[Row] = []
    if not files:
        return rows
    with one_thread():
        for name, loaded, cuts in networks(DEFAULT_CUTS):
            schedule = SCHEDULES.get(name, OTHERS)
            if quick:
                schedule = replace(schedule, steps=3)
            for cut in cuts:
                material = material_of(loaded, cut, files[:fitted], files[fitted:])
                views = collect_views(
                    material.net,
                    cut,
                    [(file, None) for file in files[:fitted]],
                    loaded.preprocessing,
                    crops=schedule.crops,
                    batch_size=BATCH,
                    seed=0,
                    report=lambda _: None,
                )
                rows += _rows(f"{name} {cut}", Trainer(material, views, schedule))
                print(table(rows), file=sys.stderr, flush=True)
    return rows


class Trainer:
    """One cut: its closed form, and what is trained from there.

    Attributes:
        closed: the transform in closed form.
    """

    def __init__(self, material: Material, views: Views, schedule: Schedule) -> None:
        self._material = material
        self._views = views
        self._schedule = schedule
        self._tail = material.net.bisect(material.point.name)[1]
        self._checked = np.flatnonzero(views.whole)[:CHECKED]
        self.closed = fit(material, Part("", METRICS))[0]

    def trained(self, quality: int, parts: Sequence[str] = EVERYTHING) -> Transform:
        """The transform after training at one quality. ``parts``: what is trained of it."""
        rng = np.random.default_rng(0)
        views, schedule = self._views, self._schedule
        code = TrainedCode(self.closed, quality, views.values[self._checked].flatten(2).float())
        weight = self._slope(quality)
        parameters = [getattr(code, part) for part in parts]
        optimizer = torch.optim.Adam(parameters, schedule.rate, betas=(0.9, 0.98))
        order: list[int] = []
        for step in range(schedule.steps):
            while len(order) < BATCH:
                order += rng.permutation(len(views)).tolist()
            rows, order = order[:BATCH], order[BATCH:]
            ramp = min((step + 1) / 10, 1) * (1 + math.cos(math.pi * step / schedule.steps)) / 2
            optimizer.param_groups[0]["lr"] = schedule.rate * ramp
            with torch.enable_grad():
                decoded, bits = code(views.values[rows].flatten(2).float())
                divergence = self._divergence(decoded, rows)
                loss = (divergence + weight * bits).mean()
                # Not backward(): the tail's weights stay as they are, and need no gradients.
                gradients = torch.autograd.grad(loss, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            if step % max(schedule.steps // 6, 1) == 0:
                harm, size = float(divergence.detach().mean()), float(bits.detach().mean()) / 8
                line = f"  quality {quality}, step {step}: {harm:.4f} nats, {size:.0f} bytes"
                print(line, file=sys.stderr, flush=True)
        return self._written(quality, code)

    def best_gain(self, quality: int) -> float:
        """The number that the decoder is best multiplied by, on photos to fit on."""
        return min(GAINS, key=lambda gain: self._check(gained(self.closed, gain), quality)[0])

    def curve(self, transform: Transform) -> list[Measured]:
        """Bytes of the real coder and divergence of each quality, on the photos to measure on."""
        material = self._material
        name = material.point.name
        exact = material.exact.reshape(-1, *material.point.shape)
        return list(coded(name, material.net, name, exact, material.judge, transform=transform))

    def _divergence(self, decoded: Tensor, rows: Any) -> Tensor:
        picture = decoded.reshape(-1, *self._material.point.shape)
        answers = torch.log_softmax(self._tail(picture).float(), dim=1)
        full = self._views.answers[rows]
        return (full.exp() * (full - answers)).sum(dim=1)

    def _check(self, transform: Transform, quality: int) -> tuple[float, float]:
        """Mean divergence and bits on some of the photos to fit on."""
        plan = transform.plan(quality)
        harm, bits = [], []
        for start in range(0, len(self._checked), BATCH):
            rows = self._checked[start : start + BATCH]
            values = self._views.values[rows].float().numpy()
            decoded = np.stack([plan.reconstruct(plan.quantise(item)) for item in values])
            with torch.inference_mode():
                harm.append(self._divergence(torch.from_numpy(decoded), rows))
            bits += [ideal_bits(transform, item, quality) for item in values]
        return float(torch.cat(harm).mean()), float(np.mean(bits))

    def _slope(self, quality: int) -> float:
        """Nats for a bit, between the qualities beside this one."""
        more, fewer = self._check(self.closed, quality - 1)
        less, larger = self._check(self.closed, quality + 1)
        return (more - less) / (larger - fewer)

    def _written(self, quality: int, code: TrainedCode) -> Transform:
        """What was trained as a transform: classes, tables and centroids are the product's."""
        with torch.no_grad():
            encoder, decoder, steps = (each.double().numpy() for each in code.current())
        closed = self.closed
        widths = steps / step_of(closed, quality)
        sample = self._material.sample(closed.grid)
        components = encoder.astype(np.float32) @ (sample.values - sample.mean)
        total = np.abs(closed.grid.transform(components)).mean(axis=0)
        magnitudes = band_means(total, closed.grid) / widths
        # Those with the largest coefficients first: the others need not be computed.
        order = np.argsort(-magnitudes.max(axis=1), kind="stable")
        basis = Basis(encoder[order], decoder[:, order], np.zeros(len(order)))
        return finished_transform(
            self._material.point,
            "",
            self._material.statistics,
            scales=Scales(basis, widths[order], magnitudes[order]),
            steps=Steps(closed.step, closed.spacing),
            sample=sample,
        )


def gained(transform: Transform, gain: float) -> Transform:
    """The transform with its decoder times a number."""
    decoder = transform.decoder.astype(np.float32) * gain
    return replace(transform, decoder=decoder.astype(np.float16))


def _rows(label: str, trainer: Trainer) -> Iterator[Row]:
    whole = trainer.curve(trainer.closed)
    yield from (
        replace(point, label=f"{label}, closed form {point.label}").row() for point in whole
    )
    for quality in TRAINED:
        gain = trainer.best_gain(quality)
        ways = {f"decoder times {gain:g}": gained(trainer.closed, gain)}
        started = time.process_time()
        ways["decoder trained"] = trainer.trained(quality, ("decoder",))
        ways["all trained"] = trainer.trained(quality)
        seconds = (time.process_time() - started) / 2
        yield row(f"{label}, quality {quality}: one training", seconds, "s of CPU")
        for way, transform in ways.items():
            yield compared(f"{label}, {way}", trainer.curve(transform)[quality], whole)


def compared(label: str, point: Measured, whole: Sequence[Measured]) -> Row:
    """Bytes of one coding by those of a curve at the divergence of the one, in each resample."""
    count = len(point.nbytes)
    rng = np.random.default_rng(0)
    ratios = []
    for rows in [np.arange(count), *rng.integers(0, count, (RESAMPLES, count))]:
        target = float(point.divergence[rows].mean())
        ratios.append(float(point.nbytes[rows].mean()) / bytes_at(whole, rows, target))
    known = [ratio for ratio in ratios[1:] if not math.isnan(ratio)] or [math.nan]
    low, high = np.quantile(known, [0.025, 0.975])
    text = f"divergence {point.divergence.mean():.4f} nats, agreement {point.agrees.mean():.1%}"
    return row(
        f"{label}, {point.label}: {text}",
        float(point.nbytes.mean()),
        "bytes",
        ratio=ratios[0],
        rival="closed form",
        expected=f"{low:.2f} to {high:.2f}",
        low=float(low),
        high=float(high),
    )
