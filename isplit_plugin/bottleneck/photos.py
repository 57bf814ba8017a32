"""Photos with labels, as batches of network inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from .. import image as im
from ..errors import DataError, ImageError
from ..network import CapturedNetwork
from ..schema import FloatArray, Preprocessing

__all__ = ["Photos", "input_batches"]

DEFAULT_BYTES: Final = 1 << 30
_NAMES_SHOWN: Final = 20


class Photos:
    """Photos with their class ids, preprocessed for one network.

    The constructor decodes every photo once, so that unreadable photos are known before a training
    starts. They are skipped. Pixels are kept in memory as uint8 up to ``max_bytes``; the remaining
    photos are decoded again each time they are used.

    Attributes:
        labels: class ids, shape (photos,) int64; -1 for a photo without label.
        skipped: names of the photos that could not be read.
        preprocessing: turns a photo into the network's input.
        classes: number of classes of the network.

    Raises:
        DataError: no photo is usable, or a class id is not one of the network's.
    """

    def __init__(
        self,
        images: Iterable[tuple[im.Image, int | None]],
        preprocessing: Preprocessing,
        classes: int,
        *,
        max_bytes: int = DEFAULT_BYTES,
    ) -> None:
        self.preprocessing = preprocessing
        self.classes = classes
        self.skipped: list[str] = []
        self._sources: list[im.Image] = []
        self._pixels: list[npt.NDArray[np.uint8] | None] = []
        labels: list[int] = []
        reasons: Counter[str] = Counter()
        nbytes = 0
        for number, (source, label) in enumerate(images):
            if label is not None and not 0 <= label < classes:
                raise DataError(
                    f"image {_name(source, number)}: "
                    f"expected a class from 0 to {classes - 1}, got {label}"
                )
            try:
                pixels = np.asarray(im.crop(source, preprocessing))
            except ImageError as error:
                self.skipped.append(_name(source, number))
                reasons[error.message] += 1
                continue
            nbytes += pixels.nbytes
            self._sources.append(source)
            self._pixels.append(pixels if nbytes <= max_bytes else None)
            labels.append(-1 if label is None else label)
        if not labels:
            summary = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(5))
            raise DataError(f"no usable images: {summary or 'none were given'}")
        self.labels: npt.NDArray[np.int64] = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, row: int) -> npt.NDArray[np.uint8]:
        """One photo, resized and cropped, uint8 (H, W, 3) or (H, W)."""
        pixels = self._pixels[row]
        if pixels is None:
            pixels = np.asarray(im.crop(self._sources[row], self.preprocessing))
        return pixels

    def inputs(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> FloatArray:
        """Network inputs (n, C, H, W) of these photos.

        They are bit for bit equal to those of :func:`isplit_plugin.image.preprocess`.
        """
        pixels = np.stack([self.pixels(int(row)) for row in rows])
        if pixels.ndim == 3:
            pixels = pixels[..., None]
        inputs = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)
        inputs /= np.float32(255)
        inputs -= np.asarray(self.preprocessing.mean, np.float32)[:, None, None]
        inputs /= np.asarray(self.preprocessing.std, np.float32)[:, None, None]
        return inputs

    def tensor(
        self,
        rows: Sequence[int] | npt.NDArray[np.integer],
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """:meth:`inputs` as a tensor; by default float32 on the CPU."""
        return torch.from_numpy(self.inputs(rows)).to(device=device, dtype=dtype)

    def sample(self, limit: int | None, *, seed: int = 0) -> npt.NDArray[np.int64]:
        """Rows of at most ``limit`` photos, balanced over the classes, in a random order.

        The same seed gives the same rows. ``None`` takes all photos.
        """
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self)).astype(np.int64)
        if limit is None or limit >= len(self):
            return order
        # Number the photos of each class; taking the lowest numbers first balances the classes.
        number_in_class = np.zeros(len(self), dtype=np.int64)
        for label in np.unique(self.labels):
            rows = order[self.labels[order] == label]
            number_in_class[rows] = np.arange(len(rows))
        chosen = np.argsort(number_in_class[order], kind="stable")[:limit]
        return order[np.sort(chosen)]

    def skipped_names(self) -> str:
        """Names of the skipped photos, separated by commas; only the first 20 if there are more."""
        names = ", ".join(self.skipped[:_NAMES_SHOWN])
        return f"{names}, ..." if len(self.skipped) > _NAMES_SHOWN else names


def input_batches(
    net: CapturedNetwork, photos: Photos, rows: npt.NDArray[np.int64], size: int = 64
) -> Iterator[torch.Tensor]:
    """Inputs (n, C, H, W) of these photos in batches, with the network's device and dtype."""
    for start in range(0, len(rows), size):
        yield photos.tensor(rows[start : start + size], device=net.device, dtype=net.dtype)


def _name(source: object, number: int) -> str:
    is_path = isinstance(source, str) or hasattr(source, "__fspath__")
    return str(source) if is_path else f"number {number}"
