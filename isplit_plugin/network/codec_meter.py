"""Bytes, times and agreement of codecs at split points."""

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
    """One calibration image.

    Attributes:
        name: for messages.
        crop: the pixels that the network sees; ``None`` for an array of network inputs.
        file_bytes: the size of the image file; ``None`` for an image that is not a file.
        array: the network's input, (C, H, W).
    """

    name: str
    crop: PIL.Image.Image | None
    file_bytes: int | None
    array: FloatArray


@dataclass(slots=True)
class _Samples:
    """One value for each image so far; NaN for an image that the codec cannot carry."""

    nbytes: list[float] = field(default_factory=list)
    encode_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)
    agrees: list[float] = field(default_factory=list)

    def add(self, nbytes: float, encode_s: float, decode_s: float) -> None:
        self.nbytes.append(nbytes)
        self.encode_ms.append(1e3 * encode_s)
        self.decode_ms.append(1e3 * decode_s)


class CodecMeter:
    """Measures codecs batch by batch. Each image is encoded on its own, as a device sends it.

    The tail runs once for codecs that decode to the same activations, and not at all for a codec
    that decodes them bit for bit.

    Parameters:
        tails: split point -> network from the activation there to the scores.
        codecs: the codecs to measure at each split point.
        preprocessing: of the photos.
        channel_axes: split point -> channel axis, counted with the batch (default 1).

    Raises UnknownCodecError.
    """

    def __init__(
        self,
        tails: Mapping[str, nn.Module],
        codecs: Sequence[str],
        preprocessing: Preprocessing,
        channel_axes: Mapping[str, int] | None = None,
    ) -> None:
        for codec in codecs:
            if not is_codec(codec):
                raise unknown_codec(codec, codec_names())
        self._tails = tails
        self._channel_axes = dict(channel_axes or {})
        self._codecs = tuple(codecs)
        self._preprocessing = preprocessing
        self._samples: dict[Cut, _Samples] = {}

    def add_activations(
        self, split_point: str, activations: Tensor, top: npt.NDArray[np.int64]
    ) -> None:
        """Measure every codec on one batch.

        ``activations``: (N, ...); ``top``: (N,), the full network's top-1 classes.
        """
        exact = np.ascontiguousarray(activations.float().cpu().numpy())
        agreements: dict[bytes, list[float]] = {}
        for codec in self._codecs:
            samples = self._samples.setdefault(Cut.of(split_point, codec), _Samples())
            decoded = self._encode_and_decode(split_point, codec, exact, samples)
            digest = hashlib.blake2b(decoded.data).digest()
            if digest not in agreements:
                if np.array_equal(exact, decoded):
                    agreements[digest] = [1.0] * len(exact)
                else:
                    scores = self._run_tail(split_point, decoded, activations)
                    agreements[digest] = _agreement(scores, top, decoded)
            samples.agrees += agreements[digest]

    def add_photos(
        self,
        photos: Sequence[Photo],
        run: Callable[[FloatArray], Tensor],
        top: npt.NDArray[np.int64],
    ) -> None:
        """Measure one batch of photos at ``input``, as JPEGs of the crop and as the files they are.

        ``run`` maps network inputs (N, C, H, W) to scores (N, classes).
        """
        jpeg = self._samples.setdefault(Cut(INPUT, "jpeg"), _Samples())
        file = self._samples.setdefault(Cut(INPUT, "file"), _Samples())
        inputs = [self._through_jpeg(photo, jpeg) for photo in photos]
        scores = run(np.stack(inputs))
        hits = scores.argmax(dim=1).cpu().numpy() == top
        for photo, hit in zip(photos, hits, strict=True):
            jpeg.agrees.append(math.nan if photo.crop is None else float(hit))
            if photo.file_bytes is None:
                file.add(math.nan, math.nan, math.nan)
                file.agrees.append(math.nan)
            else:
                # The server preprocesses the same file in the same way.
                file.add(photo.file_bytes, 0.0, 0.0)
                file.agrees.append(1.0)

    def measurements(self, rows: npt.NDArray[np.int64], classes: int) -> tuple[CutMeasurement, ...]:
        """The measurement of every cut, by class row.

        ``rows``: (N,), the class row of each image so far; ``classes``: the number of rows.
        """
        measurements = []
        for cut, samples in self._samples.items():
            agrees = np.asarray(samples.agrees)
            measured = np.isfinite(agrees)
            if not measured.any():
                continue
            agreeing = np.bincount(rows[measured], weights=agrees[measured], minlength=classes)
            measurements.append(
                CutMeasurement(
                    cut=cut,
                    nbytes=fmean(np.asarray(samples.nbytes)[measured].tolist()),
                    encode_ms=median(np.asarray(samples.encode_ms)[measured].tolist()),
                    decode_ms=median(np.asarray(samples.decode_ms)[measured].tolist()),
                    images=np.bincount(rows[measured], minlength=classes).astype(np.int64),
                    agreeing=agreeing.astype(np.int64),
                )
            )
        return tuple(measurements)

    def _encode_and_decode(
        self, split_point: str, codec: str, exact: FloatArray, samples: _Samples
    ) -> FloatArray:
        """What the tail decodes, (N, ...); NaN for an item that the codec cannot carry."""
        channel_axis = self._channel_axes.get(split_point, 1)
        decoded = np.full_like(exact, np.nan)
        for row in range(len(exact)):
            item = exact[row : row + 1]
            try:
                start = time.perf_counter()
                tensor = encode_activation(item, codec, channel_axis=channel_axis)
                middle = time.perf_counter()
                decoded[row : row + 1] = decode_activation(
                    tensor, shape=item.shape[1:], max_batch=1
                )
                samples.add(tensor.nbytes, middle - start, time.perf_counter() - middle)
            except WireError:  # the activation is not finite
                samples.add(math.nan, math.nan, math.nan)
        return decoded

    def _through_jpeg(self, photo: Photo, samples: _Samples) -> FloatArray:
        """The network's input after the crop travelled as a JPEG."""
        if photo.crop is None:
            samples.add(math.nan, math.nan, math.nan)
            return photo.array
        start = time.perf_counter()
        data = im.to_jpeg(photo.crop, JPEG_QUALITY)
        middle = time.perf_counter()
        array = im.normalize(im.load(data), self._preprocessing)
        samples.add(len(data), middle - start, time.perf_counter() - middle)
        return array

    def _run_tail(self, split_point: str, decoded: FloatArray, like: Tensor) -> Tensor:
        with torch.inference_mode():
            scores = self._tails[split_point](torch.from_numpy(decoded).to(like))
        return torch.as_tensor(scores)


def _agreement(scores: Tensor, top: npt.NDArray[np.int64], decoded: FloatArray) -> list[float]:
    """1 for each item whose top-1 class equals ``top``, 0 for others, NaN for missing items."""
    missing = np.isnan(decoded).reshape(len(decoded), -1).any(axis=1)
    hits = (scores.argmax(dim=1).cpu().numpy() == top).astype(float)
    hits[missing] = math.nan
    return [float(hit) for hit in hits]
