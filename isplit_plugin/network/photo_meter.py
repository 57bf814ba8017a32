"""Bytes, times and agreement of whole photos, in the forms in which a device can send them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import PIL.Image
from torch import Tensor

from .. import image as im
from ..advice import CHANCE, Sample, sign_test
from ..errors import QueryError, UnknownCodecError
from ..photo_codecs import PHOTOS, can_write, write_photo
from ..profile import CutMeasurement
from ..schema import INPUT, PHOTO_CODECS, PHOTO_FILE, Cut, FloatArray, Preprocessing
from ..wire import encode_images, request_bytes
from .codec_meter import cut_measurements
from .samples import Samples

__all__ = ["Photo", "PhotoMeter"]

MIN_PHOTOS: Final = 32
"""Photos before a form may be dropped."""
HOPELESS: Final = 0.05
"""A form that differs from the full network more often than this is of no use."""


@dataclass(slots=True)
class Photo:
    """One calibration image.

    Attributes:
        name: for messages.
        crop: the pixels that the network sees; ``None`` for an array of network inputs.
        file_bytes: the size of the image file; ``None`` for an image that is not a file.
        array: the network's input, (C, H, W).
        number: of the image among all that were given.
    """

    name: str
    crop: PIL.Image.Image | None
    file_bytes: int | None
    array: FloatArray
    number: int = 0


class PhotoMeter:
    """Measures photos batch by batch, in every form, and as the files that they are.

    A form is dropped when the photos so far show that it is hopeless: that it agrees on less than
    95 % (:mod:`isplit_plugin.advice.faithful`), or that another form takes fewer bytes and less time
    to encode, and agrees more often (exact sign test on the photos on which one of the two misses,
    5 %). Its measurement then rests on the photos so far. So does that of a form with more than
    ``most_misses``.

    Attributes:
        samples: one value for each image so far.
        dropped: the forms that were dropped.
        seconds: what measuring took, the network's time included.

    Parameters:
        codings: the forms, such as ``webp@75``. Those that this Pillow cannot write are left out.
        preprocessing: of the photos.
        most_misses: with which a form is measured on; by default with any number.

    Raises UnknownCodecError.
    """

    def __init__(
        self,
        codings: Sequence[str],
        preprocessing: Preprocessing,
        most_misses: float = math.inf,
    ) -> None:
        self._most_misses = most_misses
        self._preprocessing = preprocessing
        cuts = tuple(_photo_cut(coding) for coding in codings)
        self._cuts = tuple(cut for cut in cuts if can_write(cut.codec))
        self.samples: dict[Cut, Samples] = {}
        self.dropped: set[Cut] = set()
        self.seconds = 0.0

    @property
    def forms(self) -> tuple[int, int]:
        """How many forms there are, and how many of them were dropped early."""
        return len(self._cuts), len(self.dropped)

    def add(
        self,
        photos: Sequence[Photo],
        run: Callable[[FloatArray], Tensor],
        top: npt.NDArray[np.int64],
    ) -> None:
        """Measure one batch of photos.

        Parameters:
            run: maps network inputs (N, C, H, W) to scores (N, classes).
            top: the full network's top-1 classes, (N,).
        """
        started = time.perf_counter()
        for cut in self._cuts:
            if cut not in self.dropped and any(photo.crop is not None for photo in photos):
                self._add_form(cut, photos, run, top)
            else:
                self._skip(cut, len(photos))
        self._add_files(photos)
        self._drop_hopeless()
        self.seconds += time.perf_counter() - started

    def measurements(self, rows: npt.NDArray[np.int64], classes: int) -> tuple[CutMeasurement, ...]:
        """As :meth:`CodecMeter.measurements`."""
        return cut_measurements(self.samples, rows, classes)

    def _add_form(
        self,
        cut: Cut,
        photos: Sequence[Photo],
        run: Callable[[FloatArray], Tensor],
        top: npt.NDArray[np.int64],
    ) -> None:
        samples = self.samples.setdefault(cut, Samples())
        inputs = [self._through_file(photo, cut, samples) for photo in photos]
        hits = run(np.stack(inputs)).argmax(dim=1).cpu().numpy() == top
        for photo, hit in zip(photos, hits, strict=True):
            samples.agrees.append(math.nan if photo.crop is None else float(hit))
            samples.margins.append(math.nan)

    def _drop_hopeless(self) -> None:
        scores = {
            cut: _Score.of(self.samples[cut]) for cut in self._cuts if cut not in self.dropped
        }
        for cut, score in scores.items():
            photos = int(np.isfinite(score.agrees).sum())
            misses = photos - int(np.nansum(score.agrees))
            if misses > self._most_misses:
                self.dropped.add(cut)
            if photos < MIN_PHOTOS:
                continue
            if not Sample(photos, misses).faithful(HOPELESS) or any(
                other.beats(score) for rival, other in scores.items() if rival != cut
            ):
                self.dropped.add(cut)

    def _skip(self, cut: Cut, count: int) -> None:
        samples = self.samples.setdefault(cut, Samples())
        for _ in range(count):
            samples.skip()

    def _through_file(self, photo: Photo, cut: Cut, samples: Samples) -> FloatArray:
        """The network's input after the crop travelled as a file."""
        if photo.crop is None:
            samples.add(math.nan, math.nan, math.nan)
            return photo.array
        assert cut.quality is not None  # noqa: S101  of a photo that is written
        start = time.perf_counter()
        data = write_photo(photo.crop, cut.codec, cut.quality)
        middle = time.perf_counter()
        decoded = im.load(data).convert(self._preprocessing.mode)
        decoded_at = time.perf_counter()
        nbytes = request_bytes(cut, encode_images([data], cut.coding))
        samples.add(nbytes, middle - start, decoded_at - middle)
        return im.normalize(decoded, self._preprocessing)

    def _add_files(self, photos: Sequence[Photo]) -> None:
        samples = self.samples.setdefault(Cut(INPUT, PHOTO_FILE), Samples())
        for photo in photos:
            if photo.file_bytes is None:
                samples.skip()
            else:
                # The server preprocesses the same file in the same way.
                tensor = encode_images([bytes(photo.file_bytes)], PHOTO_FILE)
                samples.add(request_bytes(Cut(INPUT, PHOTO_FILE), tensor), 0.0, 0.0)
                samples.agrees.append(1.0)
                samples.margins.append(math.nan)


@dataclass(frozen=True, slots=True)
class _Score:
    """The means of a form so far; ``agrees``: 1 or 0 for each photo, NaN where not measured."""

    nbytes: float
    encode_ms: float
    agrees: npt.NDArray[np.float64]

    @classmethod
    def of(cls, samples: Samples) -> _Score:
        if not np.isfinite(samples.nbytes).any():
            return cls(math.nan, math.nan, np.array(samples.agrees))
        return cls(
            float(np.nanmean(samples.nbytes)),
            float(np.nanmedian(samples.encode_ms)),
            np.array(samples.agrees),
        )

    def beats(self, other: _Score) -> bool:
        """Whether this is smaller and faster, and proven to agree more often."""
        if not (self.nbytes <= other.nbytes and self.encode_ms <= other.encode_ms):
            return False
        difference = self.agrees - other.agrees
        wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
        return sign_test(wins, losses) < CHANCE


def _photo_cut(coding: str) -> Cut:
    try:
        cut = Cut.of(INPUT, coding)
    except QueryError:
        raise UnknownCodecError.of(coding, PHOTOS) from None
    if cut.codec not in PHOTO_CODECS or cut.quality is None:
        raise UnknownCodecError.of(coding, PHOTOS)
    return cut
