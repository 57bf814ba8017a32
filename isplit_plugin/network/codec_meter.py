"""Bytes, times and agreement of codecs at split points."""

from __future__ import annotations

import hashlib
import math
import time
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import WireError
from ..profile import CutMeasurement
from ..schema import COARSE_QUALITY, TRANSFORM_CODEC, Cut, FloatArray, Refinement
from ..wire import (
    Transform,
    codings,
    decode_activation,
    encode_activation,
    find_coding,
    margins_of,
    needs_transform,
    request_bytes,
)
from .correctors.corrector import Corrector
from .correctors.fitted import FittedCorrectors
from .execution import cpu_threads
from .refining import refine
from .samples import Samples
from .transforms.fitted import FittedTransforms

__all__ = ["CodecMeter", "cut_measurements"]


def cut_measurements(
    samples: Mapping[Cut, Samples], rows: npt.NDArray[np.int64], classes: int
) -> tuple[CutMeasurement, ...]:
    """The measurement of every cut with a measured image, by class row.

    ``rows``: (N,), the class row of each image; ``classes``: the number of rows.
    """
    measurements = []
    for cut, of_cut in samples.items():
        agrees = np.array(of_cut.agrees)
        measured = np.isfinite(agrees)
        if not measured.any():
            continue
        # Of a refining cut a few photos take twice as long, which a median would not show.
        typical_ms = _mean_ms if cut.is_refining else _median_ms
        agreeing = np.bincount(rows[measured], weights=agrees[measured], minlength=classes)
        measurements.append(
            CutMeasurement(
                cut=cut,
                nbytes=fmean(np.array(of_cut.nbytes)[measured].tolist()),
                encode_ms=typical_ms(of_cut.encode_ms),
                decode_ms=typical_ms(of_cut.decode_ms),
                images=np.bincount(rows[measured], minlength=classes).astype(np.int64),
                agreeing=agreeing.astype(np.int64),
            )
        )
    return tuple(measurements)


def _median_ms(times: array[float]) -> float:
    """Over the images that were timed: other processes' are not."""
    timed = np.array(times)
    return float(np.median(timed[np.isfinite(timed)]))


def _mean_ms(times: array[float]) -> float:
    """As :func:`_median_ms`."""
    return float(np.nanmean(times))


class CodecMeter:
    """Measures codecs batch by batch. Each image is encoded on its own, as a device sends it.

    The tail runs once for codecs that decode to the same activations, and not at all for a codec
    that decodes them bit for bit.

    Parameters:
        tails: split point -> network from the activation there to the scores.
        codecs: the codecs to measure at each split point, each in all its qualities (``dct``), and
            codings (``dct@3``).
        channel_axes: split point -> channel axis, counted with the batch (default 1).
        transforms: for codecs that need one; they are measured where there is one.
        most_misses: a cut that misses more photos than these is measured no further. By default
            every cut is measured on all photos. The coarse quality of refining cuts always is: it
            need not be faithful.
        correctors: for these codecs, where there is one. What they take counts as decoding.

    Attributes:
        samples: one value for each image so far.

    Raises UnknownCodecError.
    """

    def __init__(
        self,
        tails: Mapping[str, nn.Module],
        codecs: Sequence[str],
        channel_axes: Mapping[str, int] | None = None,
        transforms: FittedTransforms | None = None,
        *,
        most_misses: float = math.inf,
        correctors: FittedCorrectors | None = None,
    ) -> None:
        self._most_misses = most_misses
        self._misses: Counter[Cut] = Counter()
        self._transforms = transforms
        self._correctors = correctors
        self._tails = tails
        self._channel_axes = dict(channel_axes or {})
        self._codings = codings(codecs)
        self.samples: dict[Cut, Samples] = {}
        self._first = {Cut(name, TRANSFORM_CODEC, COARSE_QUALITY) for name in tails}

    def add_activations(
        self,
        split_point: str,
        activations: Tensor,
        top: npt.NDArray[np.int64],
        numbers: Sequence[int] = (),
    ) -> None:
        """Measure every codec, in each of its qualities, on one batch.

        Parameters:
            activations: (N, ...).
            top: (N,), the full network's top-1 classes.
            numbers: (N,), the numbers of the calibration photos. Each is measured with a transform
                that was fitted without it.
        """
        unseen = [self._unseen(split_point, number) for number in numbers]
        transforms = [transform for transform, _ in unseen]
        exact = np.ascontiguousarray(activations.float().cpu().numpy())
        answers: dict[bytes, tuple[list[float], list[float]]] = {}
        for coding in self._codings:
            if needs_transform(coding) and None in (transforms or [None]):
                continue
            cut = Cut.of(split_point, coding)
            samples = self.samples.setdefault(cut, Samples())
            if self._misses[cut] > self._most_misses and cut not in self._first:
                for _ in exact:
                    samples.skip()
                continue
            decoded = self._encode_and_decode(split_point, coding, exact, unseen, samples)
            digest = hashlib.blake2b(decoded.data).digest()
            if digest not in answers:
                if np.array_equal(exact, decoded):
                    answers[digest] = [1.0] * len(exact), [math.nan] * len(exact)
                else:
                    scores = self._run_tail(split_point, decoded, activations)
                    answers[digest] = _answers(scores, top, decoded)
            agrees, margins = answers[digest]
            samples.agrees.extend(agrees)
            samples.margins.extend(margins)
            self._misses[cut] += agrees.count(0.0)

    def measurements(self, rows: npt.NDArray[np.int64], classes: int) -> tuple[CutMeasurement, ...]:
        """The measurement of every cut, by class row. Refining cuts that are proven are among them.

        ``rows``: (N,), the class row of each image so far; ``classes``: the number of rows.
        """
        refining = {
            cut: samples
            for name in self._tails
            for cut, samples in refine(name, self.samples)[1].items()
        }
        return cut_measurements({**self.samples, **refining}, rows, classes)

    def refinements(self) -> tuple[Refinement, ...]:
        """Whether refining cuts may be used, at each split point where that was measured."""
        every = (refine(name, self.samples)[0] for name in self._tails)
        return tuple(refinement for refinement in every if refinement is not None)

    def _encode_and_decode(
        self,
        split_point: str,
        coding: str,
        exact: FloatArray,
        unseen: Sequence[tuple[Transform | None, Corrector | None]],
        samples: Samples,
    ) -> FloatArray:
        """What the tail decodes, (N, ...); NaN for an item that the codec cannot carry."""
        channel_axis = self._channel_axes.get(split_point, 1)
        decoded = np.full_like(exact, np.nan)
        for row in range(len(exact)):
            item = exact[row : row + 1]
            transform, corrector = unseen[row] if unseen else (None, None)
            try:
                start = time.perf_counter()
                tensor = encode_activation(
                    item, coding, channel_axis=channel_axis, transform=transform
                )
                middle = time.perf_counter()
                decoded[row : row + 1] = decode_activation(
                    tensor, shape=item.shape[1:], max_batch=1, transform=transform
                )
                if corrector is not None and needs_transform(coding):
                    decoded[row : row + 1] = _corrected(corrector, decoded[row : row + 1], coding)
                decoded_at = time.perf_counter()
                nbytes = request_bytes(Cut.of(split_point, coding), tensor)
                samples.add(nbytes, middle - start, decoded_at - middle)
            except WireError:  # the activation is not finite
                samples.add(math.nan, math.nan, math.nan)
        return decoded

    def _unseen(self, split_point: str, number: int) -> tuple[Transform | None, Corrector | None]:
        """What a photo is measured with: a transform and a corrector that have not seen it."""
        if self._transforms is None:
            return None, None
        transform = self._transforms.unseen(split_point, number)
        if transform is None or self._correctors is None:
            return transform, None
        return transform, self._correctors.unseen(split_point, number)

    def _run_tail(self, split_point: str, decoded: FloatArray, like: Tensor) -> Tensor:
        with torch.inference_mode():
            scores = self._tails[split_point](torch.from_numpy(decoded).to(like))
        return torch.as_tensor(scores)


def _corrected(corrector: Corrector, decoded: FloatArray, coding: str) -> FloatArray:
    _, quality = find_coding(coding)
    if quality is None:
        return decoded
    with cpu_threads(1):
        return corrector.correct(decoded, quality)


def _answers(
    scores: Tensor, top: npt.NDArray[np.int64], decoded: FloatArray
) -> tuple[list[float], list[float]]:
    """1 for each item whose top-1 class equals ``top`` and 0 for others, and the margins.

    NaN for missing items.
    """
    missing = np.isnan(decoded).reshape(len(decoded), -1).any(axis=1)
    hits = (scores.argmax(dim=1).cpu().numpy() == top).astype(float)
    hits[missing] = math.nan
    margins = margins_of(scores.float().cpu().numpy()).astype(float)
    margins[missing] = math.nan
    return [float(hit) for hit in hits], [float(margin) for margin in margins]
