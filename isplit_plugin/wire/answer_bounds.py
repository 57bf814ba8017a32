"""What an answer may hold, known from the request before anything of the answer is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ..errors import WireError
from ..schema import FloatArray
from .message import MAX_HEADER_BYTES

MAX_LABEL: Final = 512
"""The longest label that a client expects, in characters."""

_JSON_NUMBER: Final = 32
_JSON_CHARACTER: Final = 6
"""The bytes of an escaped character: backslash, u and four digits."""
_ROUNDING: Final = 1e-3


@dataclass(frozen=True, slots=True)
class AnswerBounds:
    """The bounds of a tail's answer.

    Attributes:
        items: images of the request.
        top_k: classes asked for.
        classes: of the network; ``None`` where they are not known, without a head bundle.
        scores: whether the raw scores of all classes were asked for.
    """

    items: int
    top_k: int
    classes: int | None
    scores: bool

    @property
    def max_bytes(self) -> int | None:
        """The longest body, as JSON or binary; ``None`` where it is not known."""
        if self.scores and self.classes is None:
            return None
        rows = self.items * self.top_k * (3 * _JSON_NUMBER + MAX_LABEL * _JSON_CHARACTER)
        scores = self.items * (self.classes or 0) * _JSON_NUMBER if self.scores else 0
        return MAX_HEADER_BYTES + rows + scores

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise WireError unless ``shape`` is that of the best classes, (items, k)."""
        k = self.top_k if self.classes is None else min(self.top_k, self.classes)
        fits = shape[0] == self.items and (
            shape[1] == k or (self.classes is None and shape[1] <= k)
        )
        if not fits:
            raise WireError(f"expected the best {k} classes of {self.items} images, got {shape}")

    def check_top(self, ids: np.ndarray, scores: FloatArray, probabilities: FloatArray) -> None:
        """Raise WireError unless these are the best classes of a softmax, the best first."""
        highest = np.iinfo(np.int64).max if self.classes is None else self.classes - 1
        if ids.min() < 0 or ids.max() > highest:
            raise WireError(
                f"expected class ids from 0 to {highest}, got {ids.min()} to {ids.max()}"
            )
        ordered = np.sort(ids, axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise WireError("a class comes twice for one image")
        if (scores[:, 1:] > scores[:, :-1]).any():
            raise WireError("expected the best class first")
        low, high = float(probabilities.min()), float(probabilities.max())
        total = float(probabilities.sum(axis=1, dtype=np.float64).max())
        if low < 0 or high > 1 + _ROUNDING or total > 1 + _ROUNDING:
            raise WireError(
                f"expected probabilities from 0 to 1 with a sum of at most 1, got {low:g} to "
                f"{high:g} with {total:g}"
            )

    def check_scores(self, shape: tuple[int, ...]) -> None:
        """Raise WireError unless ``shape`` is that of the raw scores."""
        if self.classes is not None and shape[1] != self.classes:
            raise WireError(f"expected scores of {self.classes} classes, got {shape[1]}")
