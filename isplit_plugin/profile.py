"""The profile: what a calibration set says about a network before there is any traffic. Its type and its file.

One file, ``<model>.profile.safetensors``: the arrays as safetensors, everything else as JSON in its metadata, with a
SHA-256 over both. Reading it runs no code. The statistics are sums about a fixed shift, so live statistics that use
the same shift add up with them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import ProfileError, QueryError, UnknownClassError, UnknownSplitPointError
from .files import write_atomically
from .schema import BOTTLENECK_MARK, INPUT, OUTPUT, Cut, Preprocessing, SplitPoint

__all__ = ["PROFILE_FORMAT", "Curve", "CutMeasurement", "Profile"]

PROFILE_FORMAT: Final = 1
"""Version of the profile's file format."""
TARGETS: Final = ("predicted", "true")
MAX_FILE_BYTES: Final = 512 * 1024 * 1024
_KEY: Final = "isplit_profile"

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """A CUI curve: mean and standard error of the mean, shape (P,), and the images behind it."""

    mean: Float64Array
    standard_error: Float64Array
    n: int


@dataclass(frozen=True, slots=True, eq=False)
class CutMeasurement:
    """What was measured of one cut on the calibration set.

    Attributes:
        nbytes: mean bytes on the wire for one image.
        encode_ms, decode_ms: milliseconds for one image on one thread.
        images: images of each class row, shape (K,) int64.
        agreeing: those of them whose top-1 class equals the full network's, shape (K,) int64.
    """

    cut: Cut
    nbytes: float
    encode_ms: float
    decode_ms: float
    images: Int64Array
    agreeing: Int64Array

    @property
    def split_point(self) -> str:
        """The cut's split point."""
        return self.cut.split_point

    @property
    def codec(self) -> str:
        """The cut's codec."""
        return self.cut.codec

    @property
    def agreement(self) -> float:
        """Share of all images whose top-1 class equals the full network's; NaN without images."""
        total = int(self.images.sum())
        return float(self.agreeing.sum()) / total if total else math.nan


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Profile:
    """Per-class moments of the importance, sizes, times and measured agreement of one network.

    P points of the curve in execution order, K class rows. Sums are about the shift ``mean0`` (mu0):

    - ``sum1[k, p]`` = sum of (x - mu0[p]) and ``sum2[k, p]`` = sum of (x - mu0[p])^2 over the ``count[k]`` images of
      class ``class_ids[k]``;
    - ``comoment`` (P, P) = sum over classes of the within-class centred products, ``comoment_dof`` = images minus
      classes; ``comoment / comoment_dof`` is the pooled within-class covariance.

    ``predictions``: other predictors of a bottleneck's accuracy, by name: P values, larger is better, NaN where one is
    not defined.

    Times are milliseconds for one image: ``head_ms`` up to and ``tail_ms`` from a split point, ``input`` and
    ``output`` included. Raises ProfileError where the parts do not agree.
    """

    model: str
    network_hash: str
    classes: tuple[str, ...]
    split_points: tuple[SplitPoint, ...]
    preprocessing: Preprocessing
    target: str
    class_ids: Int64Array
    count: Int64Array
    mean0: Float64Array
    sum1: Float64Array
    sum2: Float64Array
    comoment: Float64Array
    comoment_dof: int
    head_ms: Mapping[str, float]
    tail_ms: Mapping[str, float]
    measurements: tuple[CutMeasurement, ...]
    accuracy: float | None
    provenance: Mapping[str, str]
    predictions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    def point_index(self, name: str) -> int:
        """Position on the curve of a split point, by any of its names. Raises UnknownSplitPointError."""
        for index, point in enumerate(self.split_points):
            if name in point.names:
                return index
        raise UnknownSplitPointError.of(name, [p.name for p in self.split_points])

    def class_rows(self, class_ids: Iterable[int] | None = None) -> Int64Array:
        """The rows of these classes; a class of the network without images has none. Raises UnknownClassError."""
        if class_ids is None:
            return np.arange(len(self.class_ids), dtype=np.int64)
        rows = {int(c): row for row, c in enumerate(self.class_ids)}
        wanted = list(dict.fromkeys(int(c) for c in class_ids))
        for class_id in wanted:
            if not 0 <= class_id < len(self.classes):
                raise UnknownClassError.of(class_id, self.classes)
        return np.asarray([rows[c] for c in wanted if c in rows], dtype=np.int64)

    def curve(self, class_ids: Iterable[int] | None = None) -> Curve:
        """The CUI curve of all images, or of these classes pooled (images, not classes, weigh the same).

        NaN where there are no images; the standard error is NaN for a single one. Raises UnknownClassError.
        """
        rows = self.class_rows(class_ids)
        n = int(self.count[rows].sum())
        points = len(self.split_points)
        if n == 0:
            return Curve(np.full(points, np.nan), np.full(points, np.nan), 0)
        shift = self.sum1[rows].sum(axis=0) / n
        if n == 1:
            return Curve(self.mean0 + shift, np.full(points, np.nan), 1)
        spread = np.maximum(self.sum2[rows].sum(axis=0) - n * shift * shift, 0.0)
        return Curve(self.mean0 + shift, np.sqrt(spread / (n - 1) / n), n)

    def measurement(self, cut: Cut) -> CutMeasurement | None:
        """The measurement of this cut, ``None`` where it was never measured."""
        return next((m for m in self.measurements if m.cut == cut), None)

    def to_bytes(self) -> bytes:
        """The profile file's content; equal profiles give equal bytes."""
        arrays = self._arrays()
        head = self._head()
        # One metadata key: safetensors writes several in random order, and equal profiles give equal bytes.
        text = _canonical({"profile": head, "sha256": _digest(head, arrays)})
        return bytes(_safetensors().save(arrays, metadata={_KEY: text}))

    def save(self, path: str | Path) -> str:
        """Write the file whole or not at all, and return the SHA-256 of its bytes. Raises ProfileError."""
        data = self.to_bytes()
        try:
            write_atomically(path, data)
        except OSError as error:
            raise ProfileError(
                f"{path}: cannot write the profile ({error.strerror or error})"
            ) from error
        return hashlib.sha256(data).hexdigest()

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile file. Raises ProfileError naming the file, what was expected and what was found."""
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:
            raise ProfileError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
        return cls.from_bytes(data, where=str(path))

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str = "profile") -> Profile:
        """The inverse of :meth:`to_bytes`. Raises ProfileError naming ``where``."""
        if len(data) > MAX_FILE_BYTES:
            raise ProfileError(f"{where}: more than {MAX_FILE_BYTES} bytes")
        engine = _safetensors()
        try:
            arrays = engine.load(data)
            length = int.from_bytes(data[:8], "little")
            metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
        except Exception as error:  # the library raises several types, its own among them
            raise ProfileError(
                f"{where}: not a safetensors file ({type(error).__name__}: {error})"
            ) from error
        if _KEY not in metadata:
            raise ProfileError(
                f"{where}: a safetensors file, but no profile: metadata {_KEY!r} is missing"
            )
        try:
            signed = json.loads(metadata[_KEY])
            head, kept = signed["profile"], signed["sha256"]
            if int(head["format"]) > PROFILE_FORMAT:
                raise ProfileError(
                    f"{where}: format {head['format']} is newer than {PROFILE_FORMAT}, the newest this version reads"
                )
            found = _digest(head, arrays)
            if found != kept:
                raise ProfileError(
                    f"{where}: content has SHA-256 {found}, expected {kept}: damaged or edited"
                )
            return _assemble(cls, head, arrays)
        except ProfileError as error:
            raise ProfileError(
                error.message if error.message.startswith(where) else f"{where}: {error.message}"
            ) from error
        except (
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            QueryError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise ProfileError(
                f"{where}: not a profile ({type(error).__name__}: {error})"
            ) from error

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        shape = (len(self.measurements), len(self.class_ids))
        arrays: dict[str, npt.NDArray[Any]] = {name: getattr(self, name) for name in _ARRAYS}
        arrays["images"] = np.asarray(
            [m.images for m in self.measurements], dtype=np.int64
        ).reshape(shape)
        arrays["agreeing"] = np.asarray(
            [m.agreeing for m in self.measurements], dtype=np.int64
        ).reshape(shape)
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def _head(self) -> dict[str, Any]:
        return {
            "format": PROFILE_FORMAT,
            "model": self.model,
            "network_hash": self.network_hash,
            "classes": list(self.classes),
            "split_points": [asdict(p) for p in self.split_points],
            "preprocessing": asdict(self.preprocessing),
            "target": self.target,
            "comoment_dof": self.comoment_dof,
            "head_ms": dict(self.head_ms),
            "tail_ms": dict(self.tail_ms),
            "measurements": [
                [str(m.cut), m.nbytes, m.encode_ms, m.decode_ms] for m in self.measurements
            ],
            "accuracy": self.accuracy,
            "provenance": dict(self.provenance),
            # Only where there are any, so that profiles without them keep their bytes.
            **({"predictions": _predictions_to_json(self.predictions)} if self.predictions else {}),
        }


# name -> (dtype, shape in letters of P and K)
_ARRAYS: Final[dict[str, tuple[type[np.generic], str]]] = {
    "class_ids": (np.int64, "K"),
    "count": (np.int64, "K"),
    "mean0": (np.float64, "P"),
    "sum1": (np.float64, "KP"),
    "sum2": (np.float64, "KP"),
    "comoment": (np.float64, "PP"),
}


def _safetensors() -> Any:
    try:
        import safetensors.numpy as engine
    except ImportError as error:
        raise ProfileError(
            "reading and writing profiles needs safetensors: pip install 'isplit-plugin[torch]'"
        ) from error
    return engine


def _canonical(head: Mapping[str, Any]) -> str:
    return json.dumps(head, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(head: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    sha = hashlib.sha256(_canonical(head).encode())
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def _assemble(
    cls: type[Profile], head: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> Profile:
    missing = sorted({*_ARRAYS, "images", "agreeing"} - set(arrays))
    if missing:
        raise ProfileError(f"arrays {', '.join(missing)} are missing")
    classes, rows = (
        arrays["class_ids"].shape[0] if arrays["class_ids"].ndim else 0,
        len(head["measurements"]),
    )
    for name in ("images", "agreeing"):
        if arrays[name].shape != (rows, classes):
            raise ProfileError(
                f"{name}: expected shape {(rows, classes)}, found {arrays[name].shape}"
            )
    accuracy = head["accuracy"]
    return cls(
        model=str(head["model"]),
        network_hash=str(head["network_hash"]),
        classes=tuple(str(c) for c in head["classes"]),
        split_points=tuple(SplitPoint.from_json(p) for p in head["split_points"]),
        preprocessing=Preprocessing.from_json(head["preprocessing"]),
        target=str(head["target"]),
        **{name: arrays[name] for name in _ARRAYS},
        comoment_dof=int(head["comoment_dof"]),
        head_ms={str(k): float(v) for k, v in head["head_ms"].items()},
        tail_ms={str(k): float(v) for k, v in head["tail_ms"].items()},
        measurements=tuple(
            CutMeasurement(
                Cut.parse(str(cut)),
                float(nbytes),
                float(encode),
                float(decode),
                arrays["images"][i],
                arrays["agreeing"][i],
            )
            for i, (cut, nbytes, encode, decode) in enumerate(head["measurements"])
        ),
        accuracy=None if accuracy is None else float(accuracy),
        provenance={str(k): str(v) for k, v in head["provenance"].items()},
        predictions={
            str(k): tuple(math.nan if v is None else float(v) for v in values)
            for k, values in head.get("predictions", {}).items()
        },
    )


def _check(profile: Profile) -> None:
    sizes = {"P": len(profile.split_points), "K": len(profile.class_ids)}
    for name, (dtype, letters) in _ARRAYS.items():
        _check_array(
            name, getattr(profile, name), dtype, tuple(sizes[letter] for letter in letters)
        )
    names = [p.name for p in profile.split_points]
    _require(len(set(names)) == len(names), f"split points: names must differ, found {names}")
    _require(
        profile.target in TARGETS, f"target: expected one of {TARGETS}, found {profile.target!r}"
    )
    ids = profile.class_ids
    _require(len(np.unique(ids)) == len(ids), "class_ids: expected every class once")
    if len(ids):
        _require(
            ids.min() >= 0 and ids.max() < len(profile.classes),
            f"class_ids: expected 0 to {len(profile.classes) - 1}, found {ids.min()} to {ids.max()}",
        )
    _require(bool((profile.count >= 0).all()), "count: expected none below 0")
    _require(bool((profile.sum2 >= 0).all()), "sum2: expected none below 0")
    _require(
        bool((np.diag(profile.comoment) >= 0).all()),
        "comoment: expected a diagonal of none below 0",
    )
    _require(
        profile.comoment_dof >= 0,
        f"comoment_dof: expected at least 0, found {profile.comoment_dof}",
    )
    everywhere = {INPUT, OUTPUT, *names}
    for label, times in (("head_ms", profile.head_ms), ("tail_ms", profile.tail_ms)):
        unknown = sorted(name for name in times if _place(name) not in everywhere)
        _require(not unknown, f"{label}: unknown split points {unknown[:5]}")
        for name, value in times.items():
            _require(
                math.isfinite(value) and value >= 0,
                f"{label}[{name}]: expected milliseconds, found {value}",
            )
    for m in profile.measurements:
        label = f"measure {m.split_point}/{m.codec}"
        _require(_place(m.split_point) in everywhere, f"{label}: unknown split point")
        for value in (m.nbytes, m.encode_ms, m.decode_ms):
            _require(
                math.isfinite(value) and value >= 0,
                f"{label}: expected bytes and milliseconds, found {value}",
            )
        _check_array(f"{label}: images", m.images, np.int64, (sizes["K"],))
        _check_array(f"{label}: agreeing", m.agreeing, np.int64, (sizes["K"],))
        _require(
            bool(((m.agreeing >= 0) & (m.agreeing <= m.images)).all()),
            f"{label}: expected 0 <= agreeing <= images",
        )
    for name, values in profile.predictions.items():
        _require(
            len(values) == sizes["P"] and not any(math.isinf(v) for v in values),
            f"predictions[{name}]: expected {sizes['P']} numbers, found {len(values)}",
        )
    accuracy = profile.accuracy
    _require(accuracy is None or 0 <= accuracy <= 1, f"accuracy: expected 0 to 1, found {accuracy}")


def _predictions_to_json(
    predictions: Mapping[str, tuple[float, ...]],
) -> dict[str, list[float | None]]:
    return {k: [None if math.isnan(v) else v for v in values] for k, values in predictions.items()}


def _place(name: str) -> str:
    """The split point of a bottleneck's name; any other name as it is."""
    return name.rpartition(BOTTLENECK_MARK)[0] or name


def _check_array(name: str, array: object, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        what = (
            f"{array.dtype} {array.shape}"
            if isinstance(array, np.ndarray)
            else type(array).__name__
        )
        raise ProfileError(f"{name}: expected {np.dtype(dtype)} {shape}, found {what}")
    _require(bool(np.isfinite(array).all()), f"{name}: expected finite values")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ProfileError(message)
