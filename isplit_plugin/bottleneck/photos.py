"""Labelled photos as batches of inputs, decoded once and kept as pixels within a bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from .. import image as im
from ..errors import DataError, ImageError
from ..schema import FloatArray, Preprocessing

__all__ = ["Photos"]

_NAMED: Final = 20
DEFAULT_BYTES: Final = 1 << 30


class Photos:
    """Photos of one folder, with their class ids (-1: not known).

    Every photo is decoded once here, so that unreadable ones are known before a training starts: they are left out,
    counted (``skipped``) and named. Pixels are kept as uint8 up to ``max_bytes``; beyond it photos are decoded again
    whenever they are needed.
    """

    def __init__(
        self,
        images: Iterable[tuple[im.Image, int | None]],
        preprocessing: Preprocessing,
        classes: int,
        *,
        max_bytes: int = DEFAULT_BYTES,
    ) -> None:
        """Raises DataError: no usable photo, or a class id beyond ``classes``."""
        self.preprocessing = preprocessing
        self.classes = classes
        self.skipped: list[str] = []
        self._sources: list[im.Image] = []
        self._pixels: list[npt.NDArray[np.uint8] | None] = []
        labels: list[int] = []
        reasons: Counter[str] = Counter()
        held = 0
        for number, (source, label) in enumerate(images):
            if label is not None and not 0 <= label < classes:
                raise DataError(
                    f"image {_name(source, number)}: class {label}, the network has 0 to {classes - 1}"
                )
            try:
                pixels = np.asarray(im.crop(source, preprocessing))
            except ImageError as error:
                self.skipped.append(_name(source, number))
                reasons[error.message] += 1
                continue
            held += pixels.nbytes
            self._sources.append(source)
            self._pixels.append(pixels if held <= max_bytes else None)
            labels.append(-1 if label is None else label)
        if not labels:
            why = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(5))
            raise DataError(f"no usable images: {why or 'none were given'}")
        self.labels: npt.NDArray[np.int64] = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, row: int) -> npt.NDArray[np.uint8]:
        """The crop that the network sees, uint8 (H, W, 3) or (H, W)."""
        kept = self._pixels[row]
        return np.asarray(im.crop(self._sources[row], self.preprocessing)) if kept is None else kept

    def inputs(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> FloatArray:
        """Network inputs (n, C, H, W), bit for bit what :func:`isplit_plugin.image.preprocess` gives."""
        pre = self.preprocessing
        stacked = np.stack([self.pixels(int(row)) for row in rows])
        stacked = stacked[..., None] if stacked.ndim == 3 else stacked
        out = np.ascontiguousarray(stacked.transpose(0, 3, 1, 2), dtype=np.float32)
        out /= np.float32(255)
        out -= np.asarray(pre.mean, np.float32)[:, None, None]
        out /= np.asarray(pre.std, np.float32)[:, None, None]
        return out

    def tensor(
        self, rows: Sequence[int] | npt.NDArray[np.integer], like: torch.Tensor | None = None
    ) -> torch.Tensor:
        """:meth:`inputs` as a tensor, on the device and of the type of ``like``."""
        x = torch.from_numpy(self.inputs(rows))
        return x if like is None else x.to(like)

    def sample(self, limit: int | None, *, seed: int = 0) -> npt.NDArray[np.int64]:
        """At most ``limit`` rows, the same share of every class (as far as it goes), in a random but fixed order."""
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self))
        if limit is None or limit >= len(self):
            return order.astype(np.int64)
        # Rank of each photo within its class; taking the lowest ranks first balances the classes.
        rank = np.zeros(len(self), dtype=np.int64)
        for label in np.unique(self.labels):
            mine = order[self.labels[order] == label]
            rank[mine] = np.arange(len(mine))
        chosen = np.argsort(rank[order], kind="stable")[:limit]
        return order[np.sort(chosen)].astype(np.int64)

    def skipped_names(self) -> str:
        """The photos that could not be read, the first of them."""
        return ", ".join(self.skipped[:_NAMED]) + (", ..." if len(self.skipped) > _NAMED else "")


def _name(source: object, number: int) -> str:
    return (
        str(source)
        if isinstance(source, str) or hasattr(source, "__fspath__")
        else f"number {number}"
    )
