"""The codec ``dct``: bytes against what they do to the answer, beside photos and other codecs.

``python -m benchmarks transform --data FOLDER`` fits transforms on 300 photos of the folder, drawn
at random, and measures on 200 others (``--photo-counts``). What is measured is the mean
Kullback-Leibler divergence of the answer from the full network's, in nats, and the agreement of the
top-1 class. The networks are EfficientNet-Lite0 and, with ``--resnet50``, ResNet-50. ``--cuts``
picks some of the cuts, such as ``efficientnet-lite0:_blocks.5``, or with ``--study``
``resnet20_notmnist:block2c``; ``input`` stands for the photos, and ``input:avif`` for those of one
format. The rows of a cut are shown as soon as they are measured.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import PIL.Image
import torch

from isplit_plugin import image
from isplit_plugin.network import (
    CapturedNetwork,
    Corrector,
    LoadedNetwork,
    activations,
    capture,
    fit_correctors,
    fit_transforms,
    part_times,
)
from isplit_plugin.photo_codecs import PHOTOS, can_write, write_photo
from isplit_plugin.schema import FloatArray
from isplit_plugin.wire import (
    QUALITIES,
    Transform,
    decode_activation,
    encode_activation,
    ideal_bits,
    pack_transforms,
)

from .harness import Row, row, table
from .subjects import drawn_photos, networks, one_thread

DEFAULT_CUTS: Final = {
    "efficientnet-lite0": ("input", "_blocks.2", "_blocks.4", "_blocks.5", "_blocks.10"),
    "resnet50": ("input", "layer2", "layer3"),
}
STEPS: Final = "ISPLIT_CORRECTOR_STEPS"
"""The environment variable with the steps of correctors; ``--corrector-steps`` sets it."""
OTHER_CODECS: Final = ("uint8+zstd", "q4+zstd", "q4c+zstd", "q3c+zstd", "q2c+zstd")
COUNTS: Final = "ISPLIT_PHOTO_COUNTS"
"""The environment variable with the photos to fit on and to measure on; ``--photo-counts`` sets it."""
DEFAULT_COUNTS: Final = "300,200"
FORMS: Final = (*PHOTOS, "avif@55", "avif@40", "avif@25", "webp@50", "jpeg@60")
"""The photos: besides the usual ones, smaller ones for networks that stand them."""
REDUCED: Final = tuple(
    f"{codec}/{share}@{quality}"
    for codec, share in (("avif", 0.75), ("avif", 0.5), ("webp", 0.75))
    for quality in (95, 85, 70, 55)
)
"""Photos of fewer pixels, enlarged again before the network."""
COARSE: Final = tuple(
    f"{codec}@{quality}" for codec in ("jpeg", "webp", "avif") for quality in (30, 15, 5)
)
"""Photos of a few dozen pixels, which stand more."""
MIN_REDUCED: Final = 128
"""Pixels of a photo's side from which reduced photos are tried; below it, coarse ones."""
TARGETS: Final = (0.02, 0.05)
"""Divergences at which bytes are compared, by a line through logarithms."""

Array = np.ndarray


@dataclass(frozen=True)
class Measured:
    """One coding on every photo.

    Attributes:
        nbytes: (N,). divergence: (N,), in nats. agrees: (N,).
    """

    label: str
    nbytes: Array
    divergence: Array
    agrees: Array
    encode_ms: float
    decode_ms: float

    def row(self, **more: object) -> Row:
        return row(
            f"{self.label}: divergence {self.divergence.mean():.4f} nats, "
            f"agreement {self.agrees.mean():.1%}",
            float(self.nbytes.mean()),
            "bytes",
            divergence=float(self.divergence.mean()),
            agreement=float(self.agrees.mean()),
            encode_ms=self.encode_ms,
            decode_ms=self.decode_ms,
            **more,
        )


def run(quick: bool = False) -> list[Row]:
    """Rows for each network and cut. Times are medians for one photo on one thread."""
    counts = "24,8" if quick else os.environ.get(COUNTS, DEFAULT_COUNTS)
    fitted, measured = (int(word) for word in counts.split(","))
    chosen = drawn_photos(fitted + measured)
    rows: list[Row] = []
    if chosen:
        with one_thread():
            for network, loaded, cuts in networks(DEFAULT_CUTS):
                rows += _network_rows(network, loaded, cuts, chosen[:fitted], chosen[fitted:])
    return rows


def _network_rows(
    network: str,
    loaded: LoadedNetwork,
    cuts: Sequence[str],
    fitted: Sequence[Path],
    measured: Sequence[Path],
) -> list[Row]:
    net = capture(loaded.model, loaded.example_input)
    pre = loaded.preprocessing
    crops = [image.crop(file, pre) for file in measured]
    inputs = torch.from_numpy(np.stack([image.normalize(crop, pre) for crop in crops]))
    inner = [cut for cut in cuts if not cut.startswith("input")]
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in inner}
    scores = []
    for part in inputs.split(10):
        tensors, part_scores = activations(net, inner, part)
        scores.append(part_scores)
        for name in inner:
            kept[name].append(tensors[name])
    judge = Judge(torch.log_softmax(torch.cat(scores), dim=1))
    rows: list[Row] = []
    photos: list[Measured] = []
    if any(cut.startswith("input") for cut in cuts):
        photos = list(_photos(network, net, loaded, crops, judge, formats=_formats(cuts)))
        rows += [each.row() for each in photos]
    if not inner:
        return rows
    head_ms, tail_ms = part_times.head_and_tail_ms(net, inner)
    started = time.perf_counter()
    files = [(file, None) for file in fitted]
    fits = fit_transforms(net, files, preprocessing=pre, split_points=inner, threads=1)
    seconds = time.perf_counter() - started
    fitting = f"{network}: fitting {len(inner)} transforms on {len(fitted)} photos"
    rows.append(row(fitting, seconds, "s"))
    correctors = None
    if STEPS in os.environ:
        correctors = fit_correctors(
            net, files, fits, preprocessing=pre, steps=int(os.environ[STEPS]), threads=1
        )
    for name in inner:
        exact = torch.cat(kept.pop(name)).numpy()
        label = f"{network} {name}"
        transform = fits.transforms[name]
        metric = f"metric {fits.metrics[name].exponent:g}"
        size = len(pack_transforms([transform]))
        rows.append(row(f"{label}: the transform, {metric}", size, "bytes"))
        rows.append(row(f"{label}: head", head_ms[name], "ms"))
        rows.append(row(f"{label}: tail", tail_ms[name], "ms"))
        codes = list(coded(label, net, name, exact, judge, transform=transform))
        rows += _code_rows(codes, transform, exact)
        rows += _against_photos(label, codes, photos)
        if correctors is not None:
            corrector = correctors.correctors[name]
            corrected = coded(
                label, net, name, exact, judge, transform=transform, corrector=corrector
            )
            rows += _corrected_rows(codes, list(corrected), correctors.fits[name].steps)
        _show(rows)
        others = coded(label, net, name, exact, judge)
        rows += [each.row() for each in others]
    return rows


def _formats(cuts: Sequence[str]) -> tuple[str, ...]:
    """The formats of photos that are measured; empty: all."""
    named = [cut.partition(":")[2] for cut in cuts if cut.startswith("input")]
    return tuple(name for name in named if name) if all(named) else ()


def _show(rows: Sequence[Row]) -> None:
    """The rows so far on stderr: a long run that is ended loses nothing."""
    print(table(rows), file=sys.stderr, flush=True)


class Judge:
    """Compares answers with the full network's, whose log probabilities (N, classes) are given."""

    def __init__(self, full: torch.Tensor) -> None:
        self._full = full
        self._top = full.argmax(dim=1)

    def __call__(
        self, run: Callable[[torch.Tensor], torch.Tensor], values: FloatArray
    ) -> tuple[Array, Array]:
        """Divergence and agreement (N,) of the answers that ``run`` makes of values (N, ...)."""
        with torch.inference_mode():
            scores = torch.cat([run(part) for part in torch.from_numpy(values).split(10)])
        answers = torch.log_softmax(scores, dim=1)
        divergence = (self._full.exp() * (self._full - answers)).sum(dim=1)
        agrees = answers.argmax(dim=1) == self._top
        return divergence.numpy(), agrees.numpy().astype(np.float64)


def _photos(
    network: str,
    net: CapturedNetwork,
    loaded: LoadedNetwork,
    crops: Sequence[PIL.Image.Image],
    judge: Judge,
    *,
    formats: Sequence[str],
) -> Iterator[Measured]:
    pre = loaded.preprocessing
    for form in (*FORMS, *(REDUCED if pre.crop[0] >= MIN_REDUCED else COARSE)):
        name, _, quality = form.partition("@")
        codec, _, share = name.partition("/")
        if not can_write(codec) or (formats and codec not in formats):
            continue
        sizes, encode_s, decode_s, inputs = [], [], [], []
        for crop in crops:
            start = time.perf_counter()
            sent = crop
            if share:
                width, height = (round(side * float(share)) for side in crop.size)
                sent = crop.resize((width, height), PIL.Image.Resampling.LANCZOS)
            data = write_photo(sent, codec, int(quality))
            middle = time.perf_counter()
            photo = image.load(data).convert(crop.mode)  # WebP and AVIF make grey ones coloured
            if share:
                photo = photo.resize(crop.size, PIL.Image.Resampling.BICUBIC)
            inputs.append(image.normalize(photo, pre))
            decode_s.append(time.perf_counter() - middle)
            encode_s.append(middle - start)
            sizes.append(len(data))
        divergence, agrees = judge(net.model, np.stack(inputs))
        print(f"{network} input:{form}", file=sys.stderr, flush=True)
        yield Measured(
            f"{network} input:{form}",
            np.array(sizes, np.float64),
            divergence,
            agrees,
            1e3 * statistics.median(encode_s),
            1e3 * statistics.median(decode_s),
        )


def coded(
    label: str,
    net: CapturedNetwork,
    name: str,
    exact: FloatArray,
    judge: Judge,
    *,
    transform: Transform | None = None,
    corrector: Corrector | None = None,
) -> Iterator[Measured]:
    """Every quality of the transform, corrected or not; without one, the other codecs."""
    codings = OTHER_CODECS if transform is None else [f"dct@{q}" for q in QUALITIES]
    tail = net.bisect(name)[1]
    axis = net.split_point(name).channel_axis
    for coding in codings:
        sizes, encode_s, decode_s = [], [], []
        decoded = np.empty_like(exact)
        for number in range(len(exact)):
            item = exact[number : number + 1]
            start = time.perf_counter()
            tensor = encode_activation(item, coding, channel_axis=axis, transform=transform)
            middle = time.perf_counter()
            decoded[number] = decode_activation(tensor, shape=item.shape[1:], transform=transform)[
                0
            ]
            if corrector is not None:
                quality = int(coding.partition("@")[2])
                decoded[number] = corrector.correct(decoded[number : number + 1], quality)[0]
            decode_s.append(time.perf_counter() - middle)
            encode_s.append(middle - start)
            sizes.append(tensor.nbytes)
        divergence, agrees = judge(tail, decoded)
        yield Measured(
            f"{label}:{coding}",
            np.array(sizes, np.float64),
            divergence,
            agrees,
            1e3 * statistics.median(encode_s),
            1e3 * statistics.median(decode_s),
        )


def _code_rows(codes: Sequence[Measured], transform: Transform, exact: FloatArray) -> list[Row]:
    """The codes with their overhead over an ideal coder of the same model."""
    rows = []
    for quality, code in zip(QUALITIES, codes, strict=True):
        few = exact[:20]
        ideal = np.mean([ideal_bits(transform, item, quality) / 8 for item in few])
        overhead = float(code.nbytes[: len(few)].mean() / ideal - 1)
        rows.append(
            code.row(overhead=overhead, components=transform.components(quality))
            | {"expected": f"{overhead:.1%} over ideal, encode {code.encode_ms:.1f} ms, "
               f"decode {code.decode_ms:.1f} ms"}
        )  # fmt: skip
    return rows


def _corrected_rows(
    codes: Sequence[Measured], corrected: Sequence[Measured], steps: int
) -> Iterator[Row]:
    """The corrected codes, with the ratio of the divergences in a paired bootstrap over photos."""
    rng = np.random.default_rng(0)
    for code, better in zip(codes, corrected, strict=True):
        count = len(code.divergence)
        draws = [np.arange(count), *rng.integers(0, count, (2000, count))]
        ratios = [better.divergence[rows].mean() / code.divergence[rows].mean() for rows in draws]
        low, high = np.quantile(ratios[1:], [0.025, 0.975])
        expected = (
            f"divergence x {ratios[0]:.2f} (95 % of {low:.2f} to {high:.2f}), "
            f"decode {better.decode_ms:.1f} ms"
        )
        label = f"{better.label} corrected, {steps} steps"
        yield replace(better, label=label).row(ratio_of_divergences=ratios[0]) | {
            "expected": expected
        }


def _against_photos(
    label: str, codes: Sequence[Measured], photos: Sequence[Measured]
) -> Iterator[Row]:
    """Bytes at equal divergence against the best photo, with a paired bootstrap over photos."""
    if not photos:
        return
    formats = sorted({photo.label.partition("@")[0] for photo in photos})
    rng = np.random.default_rng(0)
    count = len(codes[0].nbytes)
    draws = [np.arange(count), *rng.integers(0, count, (500, count))]
    for target in TARGETS:
        ratios = []
        for rows in draws:
            own = bytes_at(codes, rows, target)
            best = np.nanmin(
                [
                    _photo_bytes(
                        [p for p in photos if p.label.startswith(f"{name}@")], rows, target
                    )
                    for name in formats
                ]
                + [math.inf]
            )
            ratios.append(own / best)
        known = [ratio for ratio in ratios[1:] if np.isfinite(ratio) and ratio > 0]
        if not (np.isfinite(ratios[0]) and ratios[0] > 0):
            continue  # the codes or the photos do not reach the divergence
        low, high = np.quantile(known, [0.025, 0.975])
        yield row(
            f"{label}: bytes at {target} nats, 95 % of {low:.2f} to {high:.2f}",
            bytes_at(codes, draws[0], target),
            "bytes",
            ratio=ratios[0],
            rival="best photo",
            low=float(low),
            high=float(high),
        )


def _photo_bytes(measured: Sequence[Measured], rows: Array, target: float) -> float:
    """:func:`bytes_at` of one format; where even its smallest photo does less, the bytes of that."""
    smallest = max(measured, key=lambda photo: float(photo.divergence[rows].mean()))
    if smallest.divergence[rows].mean() < target:
        return float(smallest.nbytes[rows].mean())
    return bytes_at(measured, rows, target)


def bytes_at(measured: Sequence[Measured], rows: Array, target: float) -> float:
    """Mean bytes at a mean divergence, between the two codings around it; NaN beyond all of them."""
    points = sorted(
        (float(m.divergence[rows].mean()), float(m.nbytes[rows].mean())) for m in measured
    )
    if not points[0][0] <= target <= points[-1][0]:
        return math.nan
    divergences, sizes = np.log([max(d, 1e-9) for d, _ in points]), np.log([s for _, s in points])
    return float(np.exp(np.interp(np.log(target), divergences, sizes)))
