"""An exit: answers from the pooled activation alone, on the device.

Scores are linear in the features, one for each class, and one for "none of these" where other
classes were seen. Photos that are further from their class than its own photos are (Lee et al., "A
Simple Unified Framework for Detecting Out-of-Distribution Samples", NeurIPS 2018) get no class
either. Features are divided by their deviations for that; the full inverse covariance was measured
to tell strange photos apart no better, and is large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import DataError, ExitError
from ..hashed_arrays import digest, pack_arrays, reading, unpack_arrays
from ..schema import Cut
from .arrays import malformed, require_array
from .features import F32, F64, I64, MAX_FEATURES, POOLINGS, Pooling
from .sums import MAX_CLASSES

F16 = npt.NDArray[np.float16]

NONE: Final = -1
"""The class id that stands for "none of these": the photo is sent."""
BIN_EDGES: Final = tuple(step / 10 for step in range(1, 20))
"""Where bins begin, but for the first: margins as multiples of the exit's usual margin."""
BINS: Final = len(BIN_EDGES) + 1
"""The number of bins of the margin. The last is the strictest."""
MAX_EXIT_BYTES: Final = 1 << 24
"""The most bytes of an exit."""

_KIND: Final = "isplit_exit"
_FORMAT: Final = 1
_CLIP: Final = 16.0  # deviations
_MAX_TIME: Final = 2**37  # in the year 6325


class ExitAnswer(NamedTuple):
    """What an exit says about one photo.

    Attributes:
        class_id: the class, or ``NONE``.
        margin: by how much its score is above the next, in nats; 0 for ``NONE``.
        bin: the bin of the margin, 0 to ``BINS`` - 1. It is relative to the exit's usual margin:
            exits differ in their margins a hundredfold, but hardly in these multiples. The usual
            margin of each class would say less: classes with small margins are less sure.
    """

    class_id: int
    margin: float
    bin: int


@dataclass(frozen=True, slots=True, eq=False)
class Exit:
    """One version of an exit. Immutable.

    Attributes:
        network_hash: of the network whose answers it gives.
        cut: where it works, and the codec from whose decoded values features are made.
        pooling: how features are made.
        class_ids: (K,); ``NONE`` is first where there is a row for all other classes.
        center, scale: (F,) float32: features are scored as (z - center) * scale.
        weights: (K, F) float16.
        bias: (K,) float32.
        means: (K, F) float16, the mean scaled features of each class.
        reach: (K,) float32: the squared distance from the mean beyond which a photo is none of the
            class's own.
        usual: the usual margin, in nats: that of the mean photo of a class, mean of all classes.
        created, expires: seconds since the epoch.
        version: SHA-256 of all that decides its answers, 64 hexadecimal digits. Times are no part
            of it: an exit that is signed again for longer stays the version that was proven.
    """

    network_hash: str
    cut: Cut
    pooling: Pooling
    class_ids: I64
    center: F32
    scale: F32
    weights: F16
    bias: F32
    means: F16
    reach: F32
    usual: float
    created: float
    expires: float
    version: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", digest(self._decisive(), self._arrays()))

    @property
    def features(self) -> int:
        """F, the number of features."""
        return len(self.center)

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that it can answer."""
        return tuple(int(class_id) for class_id in self.class_ids if class_id != NONE)

    def expired(self, now: float) -> bool:
        """Whether it may no longer answer at this time, in seconds since the epoch."""
        return not now < self.expires

    def answer(self, z: npt.ArrayLike) -> ExitAnswer:
        """The answer for one photo, from its features (F,).

        Raises DataError for another number of features, or values that are not finite.
        """
        return self.answers(np.asarray(z)[None])[0]

    def answers(self, z: npt.ArrayLike) -> list[ExitAnswer]:
        """The answers for features (N, F). Raises as :meth:`answer`."""
        rows, margins = self._judged(z)
        return [
            ExitAnswer(NONE, 0.0, 0)
            if row < 0
            else ExitAnswer(int(self.class_ids[row]), float(margin), bin_of(margin / self.usual))
            for row, margin in zip(rows, margins, strict=True)
        ]

    def _judged(self, z: npt.ArrayLike) -> tuple[I64, F64]:
        """For features (N, F) the row of the class, -1 for none of them, and the margin, (N,)."""
        values = np.asarray(z, np.float64)
        if values.ndim != 2 or values.shape[1] != self.features:
            raise DataError(f"features: expected {self.features}, got shape {values.shape[1:]}")
        if not np.isfinite(values).all():
            raise DataError("features: expected finite values")
        x = np.clip((values - self.center) * self.scale, -_CLIP, _CLIP)
        scores = x @ self.weights.astype(np.float64).T + self.bias
        best = scores.argmax(axis=1)
        index = np.arange(len(x))
        distance = ((x - self.means[best]) ** 2).sum(axis=1)
        top = scores[index, best]
        scores[index, best] = -np.inf
        margins = top - scores.max(axis=1)
        none = (self.class_ids[best] == NONE) | (distance > self.reach[best])
        return np.where(none, -1, best), margins

    def to_bytes(self) -> bytes:
        """As safetensors. Equal exits give equal bytes."""
        header = {
            "format": _FORMAT,
            **self._decisive(),
            "created": self.created,
            "expires": self.expires,
        }
        return pack_arrays(_KIND, header, self._arrays())

    @classmethod
    def from_bytes(cls, data: bytes) -> Exit:
        """Read what :meth:`to_bytes` wrote. Raises ExitError for anything else, NaN included."""
        with reading("exit", "an exit", malformed):
            return cls._read(data)

    def check(self, network_hash: str, classes: int, now: float) -> None:
        """Check that it may answer for a network with this many classes, now.

        Raises ExitError whose ``details["reason"]`` is "network", "class" or "expired".
        """
        if self.network_hash != network_hash:
            raise ExitError(
                f"exit of network {self.network_hash[:16]}: expected one of {network_hash[:16]}",
                reason="network",
            )
        if max(self.classes) >= classes:
            raise ExitError(
                f"exit with class {max(self.classes)}: the network has {classes} classes",
                reason="class",
            )
        if self.expired(now):
            raise ExitError("exit: it has expired", reason="expired")

    def _decisive(self) -> dict[str, Any]:
        return {
            "network_hash": self.network_hash,
            "cut": str(self.cut),
            "pooling": self.pooling,
            "usual": self.usual,
        }

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        names = ("class_ids", "center", "scale", "weights", "bias", "means", "reach")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def _read(cls, data: bytes) -> Exit:
        header, arrays = unpack_arrays(data, _KIND, newest=_FORMAT, max_bytes=MAX_EXIT_BYTES)
        features, classes = len(arrays["center"]), len(arrays["class_ids"])
        if not (2 <= classes <= MAX_CLASSES and 0 < features <= MAX_FEATURES):
            raise ValueError(f"expected classes and features, got {classes} and {features}")
        expected: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "class_ids": (np.int64, (classes,)),
            "center": (np.float32, (features,)),
            "scale": (np.float32, (features,)),
            "weights": (np.float16, (classes, features)),
            "bias": (np.float32, (classes,)),
            "means": (np.float16, (classes, features)),
            "reach": (np.float32, (classes,)),
        }
        if set(arrays) != set(expected):
            raise ValueError(f"expected arrays {', '.join(sorted(expected))}")
        fields: dict[str, Any] = {
            name: require_array(arrays, name, dtype, shape)
            for name, (dtype, shape) in expected.items()
        }
        ids = fields["class_ids"]
        if ids[0] < NONE or (np.diff(ids) <= 0).any():
            raise ValueError("expected ascending class ids")
        usual = float(header["usual"])
        if not 0 < usual < math.inf:
            raise ValueError("usual margin: expected a positive number")
        if header["pooling"] not in POOLINGS:
            raise ValueError(f"unknown pooling {str(header['pooling'])[:20]!r}")
        numbers: dict[str, Any] = {name: float(header[name]) for name in ("created", "expires")}
        if not all(0 <= number < _MAX_TIME for number in numbers.values()):
            raise ValueError("times: expected seconds since the epoch")
        return cls(
            network_hash=str(header["network_hash"]),
            cut=Cut.parse(str(header["cut"])),
            pooling=header["pooling"],
            usual=usual,
            **fields,
            **numbers,
        )


def bin_of(multiple: float) -> int:
    """The bin of a margin, as a multiple of the exit's usual margin: 0 to ``BINS`` - 1."""
    return int(np.searchsorted(BIN_EDGES, multiple, side="right"))
