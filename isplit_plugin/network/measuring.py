"""What a codec costs and what it changes: bytes, times, and whether the top-1 class stays the full network's."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Final

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor, nn

from .. import image as im
from ..errors import WireError
from ..profile import CutMeasurement
from ..schema import INPUT, Cut, FloatArray, Preprocessing
from ..wire import codec_names, decode_activation, encode_activation, is_codec, unknown_codec

__all__ = ["JPEG_QUALITY", "CodecMeter", "Photo"]

JPEG_QUALITY: Final = 90


@dataclass(slots=True)
class Photo:
    """One calibration image: its file's bytes where it is a file, its crop where there is one, the network's input."""

    name: str
    crop: PIL.Image.Image | None
    file_bytes: int | None
    array: FloatArray


@dataclass(slots=True)
class _Series:
    """One row for each image so far, in the order of the images; NaN where it could not be measured."""

    nbytes: list[float] = field(default_factory=list)
    encode: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    agree: list[float] = field(default_factory=list)

    def add(self, nbytes: float, encode: float, decode: float) -> None:
        self.nbytes.append(nbytes)
        self.encode.append(1e3 * encode)
        self.decode.append(1e3 * decode)


class CodecMeter:
    """Measures codecs at split points, batch by batch, each image on its own as a device sends it.

    ``tails``: split point -> network from the activation there to the scores; ``channel_axes``: split point -> channel
    axis, with batch (default 1). A codec that gives the activation back bit for bit needs no run of the tail, and
    codecs that give back the same share one. Raises UnknownCodecError.
    """

    def __init__(
        self,
        tails: Mapping[str, nn.Module],
        codecs: Sequence[str],
        pre: Preprocessing,
        channel_axes: Mapping[str, int] | None = None,
    ) -> None:
        for codec in codecs:
            if not is_codec(codec):
                raise unknown_codec(codec, codec_names())
        self._tails = tails
        self._axes = dict(channel_axes or {})
        self._codecs = tuple(codecs)
        self._pre = pre
        self._series: dict[Cut, _Series] = {}

    def add(self, split_point: str, activation: Tensor, top: npt.NDArray[np.int64]) -> None:
        """One batch of activations (N, ...) and the full network's top-1 classes (N,)."""
        exact = np.ascontiguousarray(activation.float().cpu().numpy())
        agreed: dict[bytes, list[float]] = {}
        for codec in self._codecs:
            series = self._series.setdefault(Cut.of(split_point, codec), _Series())
            decoded = np.empty_like(exact)
            for row in range(len(exact)):
                self._one(split_point, exact[row : row + 1], codec, series, decoded[row : row + 1])
            same = hashlib.blake2b(decoded.data).digest()
            if same not in agreed:
                agreed[same] = self._agreement(split_point, exact, decoded, activation, top)
            series.agree += agreed[same]

    def add_images(
        self,
        photos: Sequence[Photo],
        run: Callable[[FloatArray], Tensor],
        top: npt.NDArray[np.int64],
    ) -> None:
        """One batch of photos: as a JPEG of the crop, and as the file that each of them is.

        ``run``: inputs (N, C, H, W) to scores.
        """
        jpeg = self._series.setdefault(Cut(INPUT, "jpeg"), _Series())
        file = self._series.setdefault(Cut(INPUT, "file"), _Series())
        inputs: list[FloatArray] = []
        for photo in photos:
            if photo.crop is None:
                jpeg.add(math.nan, math.nan, math.nan)
                inputs.append(photo.array)
            else:
                start = time.perf_counter()
                data = im.to_jpeg(photo.crop, JPEG_QUALITY)
                middle = time.perf_counter()
                inputs.append(im.normalize(im.load(data), self._pre))
                jpeg.add(len(data), middle - start, time.perf_counter() - middle)
            nbytes = math.nan if photo.file_bytes is None else photo.file_bytes
            file.add(nbytes, nbytes * 0, nbytes * 0)
            file.agree.append(
                nbytes * 0 + 1
            )  # the same file, the same preprocessing: the same answer
        hits = run(np.stack(inputs)).argmax(dim=1).cpu().numpy() == top
        jpeg.agree += [
            math.nan if p.crop is None else float(h) for p, h in zip(photos, hits, strict=True)
        ]

    def measures(self, rows: npt.NDArray[np.int64], classes: int) -> tuple[CutMeasurement, ...]:
        """What was measured; ``rows`` (N,): the class row of each image, of ``classes`` rows."""
        found = []
        for cut, series in self._series.items():
            agree = np.asarray(series.agree)
            known = np.isfinite(agree)
            if not known.any():
                continue
            found.append(
                CutMeasurement(
                    cut=cut,
                    nbytes=fmean(np.asarray(series.nbytes)[known].tolist()),
                    encode_ms=median(np.asarray(series.encode)[known].tolist()),
                    decode_ms=median(np.asarray(series.decode)[known].tolist()),
                    images=np.bincount(rows[known], minlength=classes).astype(np.int64),
                    agreeing=np.bincount(
                        rows[known], weights=agree[known], minlength=classes
                    ).astype(np.int64),
                )
            )
        return tuple(found)

    def _one(
        self, split_point: str, item: FloatArray, codec: str, series: _Series, decoded: FloatArray
    ) -> None:
        try:
            start = time.perf_counter()
            tensor = encode_activation(item, codec, channel_axis=self._axes.get(split_point, 1))
            middle = time.perf_counter()
            decoded[...] = decode_activation(tensor, shape=item.shape[1:], max_batch=1)
            series.add(tensor.nbytes, middle - start, time.perf_counter() - middle)
        except (
            WireError
        ):  # not finite: such an activation cannot travel, so the choice fails for this image
            decoded[...] = np.nan
            series.add(math.nan, math.nan, math.nan)

    def _agreement(
        self,
        split_point: str,
        exact: FloatArray,
        decoded: FloatArray,
        like: Tensor,
        top: npt.NDArray[np.int64],
    ) -> list[float]:
        lost = np.isnan(decoded).reshape(len(decoded), -1).any(axis=1)
        if np.array_equal(exact, decoded):
            return [1.0] * len(exact)
        with torch.inference_mode():
            scores = self._tails[split_point](torch.from_numpy(decoded).to(like))
        hits = (scores.argmax(dim=1).cpu().numpy() == top).astype(float)
        hits[lost] = math.nan
        return [float(h) for h in hits]
