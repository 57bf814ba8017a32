"""Bytes, times and agreement of whole photos, in the forms in which a device can send them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import PIL.Image
from torch import Tensor

from .. import image as im
from ..errors import UnknownCodecError
from ..photo_codecs import PHOTOS, can_write, write_photo
from ..profile import CutMeasurement
from ..schema import INPUT, PHOTO_FILE, Cut, FloatArray, Preprocessing
from .codec_meter import Samples, cut_measurements

__all__ = ["Photo", "PhotoMeter"]


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


class PhotoMeter:
    """Measures photos batch by batch, in every form, and as the files that they are.

    Parameters:
        codings: the forms, such as ``webp@75``. Those that this Pillow cannot write are left out.
        preprocessing: of the photos.

    Raises UnknownCodecError.
    """

    def __init__(self, codings: Sequence[str], preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing
        self._cuts = tuple(_photo_cut(coding) for coding in codings if can_write(coding))
        self._samples: dict[Cut, Samples] = {}

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
        for cut in self._cuts:
            if any(photo.crop is not None for photo in photos):
                self._add_form(cut, photos, run, top)
            else:
                self._skip(cut, len(photos))
        self._add_files(photos)

    def measurements(self, rows: npt.NDArray[np.int64], classes: int) -> tuple[CutMeasurement, ...]:
        """As :meth:`CodecMeter.measurements`."""
        return cut_measurements(self._samples, rows, classes)

    def _add_form(
        self,
        cut: Cut,
        photos: Sequence[Photo],
        run: Callable[[FloatArray], Tensor],
        top: npt.NDArray[np.int64],
    ) -> None:
        samples = self._samples.setdefault(cut, Samples())
        inputs = [self._through_file(photo, cut, samples) for photo in photos]
        hits = run(np.stack(inputs)).argmax(dim=1).cpu().numpy() == top
        for photo, hit in zip(photos, hits, strict=True):
            samples.agrees.append(math.nan if photo.crop is None else float(hit))

    def _skip(self, cut: Cut, count: int) -> None:
        samples = self._samples.setdefault(cut, Samples())
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
        samples.add(len(data), middle - start, time.perf_counter() - middle)
        return im.normalize(decoded, self._preprocessing)

    def _add_files(self, photos: Sequence[Photo]) -> None:
        samples = self._samples.setdefault(Cut(INPUT, PHOTO_FILE), Samples())
        for photo in photos:
            if photo.file_bytes is None:
                samples.skip()
            else:
                # The server preprocesses the same file in the same way.
                samples.add(photo.file_bytes, 0.0, 0.0)
                samples.agrees.append(1.0)


def _photo_cut(coding: str) -> Cut:
    cut = Cut.of(INPUT, coding)
    if not cut.is_photo or cut.quality is None:
        raise UnknownCodecError.of(coding, PHOTOS)
    return cut
