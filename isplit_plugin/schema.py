"""Frozen value types that every room shares. No I/O, no engine: numpy and the standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import ArtifactError, UnknownSplitPointError

INPUT: Final = "input"
"""The choice that sends the image: everything runs on the server."""
OUTPUT: Final = "output"
"""The choice that sends nothing to be computed: everything runs on the device."""
MANIFEST_FORMAT: Final = 1

FloatArray = npt.NDArray[np.float32]


class Macs(NamedTuple):
    """Multiply-accumulate operations for one item, before (head) and after (tail) a split point."""

    head: int
    tail: int


@dataclass(frozen=True, slots=True)
class SplitPoint:
    """A place in a network where one tensor that depends on the input is live.

    ``shape`` is without batch; ``channel_axis`` and ``stride_order`` count axes *with* batch (a convolution's channel
    axis is 1). ``stride_order`` lists the axes from the outermost to the innermost in memory: the tail restores it,
    because the wire carries row-major data only. ``is_block``: the output of a direct child, or of an element of a
    sequence of blocks; the two rules of CUI run over these by default.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    macs: Macs
    channel_axis: int
    stride_order: tuple[int, ...]
    is_block: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The name and all aliases."""
        return (self.name, *self.aliases)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> SplitPoint:
        return cls(
            name=str(raw["name"]),
            aliases=tuple(str(a) for a in raw["aliases"]),
            shape=tuple(int(d) for d in raw["shape"]),
            dtype=str(raw["dtype"]),
            nbytes=int(raw["nbytes"]),
            macs=Macs(*(int(m) for m in raw["macs"])),
            channel_axis=int(raw["channel_axis"]),
            stride_order=tuple(int(d) for d in raw["stride_order"]),
            is_block=bool(raw["is_block"]),
        )


BOTTLENECK_MARK: Final = "~"
"""Between the split point and the shape in a bottleneck's name: ``layer2~n64s4d2``."""


@dataclass(frozen=True, slots=True)
class BottleneckPoint:
    """A trained bottleneck at a split point, as a place where one can cut.

    ``point``: the code as what travels; its name is the bottleneck's, its shape the code's. ``of``: the split point whose
    activation the encoder takes. Its importance is another network's: it is no point of the curve.
    """

    point: SplitPoint
    of: str

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> BottleneckPoint:
        return cls(SplitPoint.from_json(raw["point"]), str(raw["of"]))


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From a photo to the network's input, the same on device, server and in the profile.

    Shorter side to ``resize`` pixels (``None``: as it is), centre crop to ``crop`` (height, width), scale to [0, 1],
    subtract ``mean``, divide by ``std``. ``mode`` is Pillow's: "RGB" or "L". ``interpolation``: "bilinear", "bicubic"
    or "nearest".
    """

    crop: tuple[int, int]
    resize: int | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    mode: str = "RGB"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one preprocessed image."""
        return (1 if self.mode == "L" else 3, *self.crop)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Preprocessing:
        height, width = raw["crop"]
        return cls(
            crop=(int(height), int(width)),
            resize=None if raw["resize"] is None else int(raw["resize"]),
            mean=tuple(float(v) for v in raw["mean"]),
            std=tuple(float(v) for v in raw["std"]),
            interpolation=str(raw["interpolation"]),
            mode=str(raw["mode"]),
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a packaged model is: the one description that archive, head bundle, store and endpoint agree on.

    ``input_shape`` is without batch. ``split_points`` is the whole curve in execution order; ``deployed`` names those
    that are served (``input`` and ``output`` are always served besides). ``files`` maps a path inside the bundle or
    archive to its SHA-256. ``codecs`` are the codec names the tail accepts; ``default`` is the (split point, codec) a
    client starts with. ``bottlenecks``: trained bottlenecks, each a place of its own beside the curve: its name can stand
    in ``deployed`` and wherever a served split point is named, and its shape is the code's.
    """

    model: str
    version: str
    network_hash: str
    input_shape: tuple[int, ...]
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    split_points: tuple[SplitPoint, ...]
    deployed: tuple[str, ...]
    codecs: tuple[str, ...]
    default: tuple[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    created_with: Mapping[str, str] = field(default_factory=dict)
    bottlenecks: tuple[BottleneckPoint, ...] = ()

    def split_point(self, name: str) -> SplitPoint:
        """Look a split point up by any of its names, or a bottleneck by its own. Raises UnknownSplitPointError."""
        for point in self.split_points:
            if name in point.names:
                return point
        for bottleneck in self.bottlenecks:
            if name == bottleneck.point.name:
                return bottleneck.point
        raise UnknownSplitPointError.of(name, (INPUT, *(p.name for p in self.split_points), OUTPUT))

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types; :meth:`from_json` is its inverse."""
        raw = asdict(self)
        raw["format"] = MANIFEST_FORMAT
        return raw

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], *, where: str = "manifest") -> Manifest:
        """Read a manifest strictly. Raises ArtifactError naming ``where`` and what is wrong."""
        try:
            if int(raw["format"]) > MANIFEST_FORMAT:
                raise ArtifactError(
                    f"{where}: format {raw['format']} is newer than {MANIFEST_FORMAT}, the newest this version reads"
                )
            split_point, codec = raw["default"]
            return cls(
                model=str(raw["model"]),
                version=str(raw["version"]),
                network_hash=str(raw["network_hash"]),
                input_shape=tuple(int(d) for d in raw["input_shape"]),
                preprocessing=Preprocessing.from_json(raw["preprocessing"]),
                classes=tuple(str(c) for c in raw["classes"]),
                split_points=tuple(SplitPoint.from_json(p) for p in raw["split_points"]),
                deployed=tuple(str(d) for d in raw["deployed"]),
                codecs=tuple(str(c) for c in raw["codecs"]),
                default=(str(split_point), str(codec)),
                files={str(k): str(v) for k, v in raw["files"].items()},
                created_with={str(k): str(v) for k, v in raw["created_with"].items()},
                bottlenecks=tuple(BottleneckPoint.from_json(v) for v in raw.get("bottlenecks", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(
                f"{where}: not a manifest ({type(error).__name__}: {error})"
            ) from error


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds of one prediction, as the device saw it; ``tail_ms`` and ``decode_ms`` are the server's own.

    ``prepare_ms``: from the photo to the head's input, and at a head's first use loading it. An image of a batch waits
    for the whole batch, so it has the batch's times.
    """

    head_ms: float = 0.0
    encode_ms: float = 0.0
    round_trip_ms: float = 0.0
    decode_ms: float = 0.0
    tail_ms: float = 0.0
    prepare_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        """Preparation, head, encoding and round trip; the server's times lie within the round trip."""
        return self.prepare_ms + self.head_ms + self.encode_ms + self.round_trip_ms


class TopClass(NamedTuple):
    """One of the k best classes: its id, its label, its raw score (logit) and its softmax probability."""

    class_id: int
    label: str
    score: float
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The answer for one image.

    ``scores``: the network's raw class scores, shape (classes,), float32; ``None`` when the caller asked for top-k
    alone. ``bytes_sent`` and ``bytes_received`` count this image's share of the HTTP bodies. ``device``: what the
    server made of the device's token, "ok" or "invalid: <reason>"; empty where none was sent or nobody could verify it.
    ``probe_rate``: the share of requests that the server advises to follow with a probe, 0 where it wants none.
    """

    top: tuple[TopClass, ...]
    scores: FloatArray | None
    split_point: str
    codec: str
    bytes_sent: int
    bytes_received: int
    timings: Timings
    request_id: str
    device: str = ""
    probe_rate: float = 0.0

    @property
    def label(self) -> str:
        return self.top[0].label

    @property
    def class_id(self) -> int:
        return self.top[0].class_id

    @property
    def probability(self) -> float:
        return self.top[0].probability


@dataclass(frozen=True, slots=True)
class Observation:
    """What one served request leaves behind. Nothing in it could rebuild an input.

    ``source_ms`` values come from the device and are bounded before they get here; NaN = not reported.
    ``at``: seconds since the epoch. ``class_id`` is the predicted class; ``None`` where the request failed.
    ``device``: the hash of the id in a verified token; ``None`` where there was none.
    """

    request_id: str
    split_point: str
    codec: str
    class_id: int | None
    confidence: float
    bytes_received: int
    decode_ms: float
    tail_ms: float
    at: float
    head_ms: float = math.nan
    encode_ms: float = math.nan
    uplink_ms: float = math.nan
    group: str = "all"
    error: str | None = None
    device: str | None = None


class CurvePoint(NamedTuple):
    """One point of a CUI curve: the mean, its standard error, where it comes from ("live", "profile", "mixed"), and
    the counts behind it. ``nbytes``: the raw activation of one item. ``devices``: how many distinct ones the live part
    comes from, at least; ``None`` where devices are not known."""

    split_point: str
    cui: float
    standard_error: float
    source: str
    live_count: float
    profile_count: float
    nbytes: int
    devices: int | None = None


class ClassShare(NamedTuple):
    """A class in the asked mix and its weight (weights sum to 1)."""

    class_id: int
    label: str
    weight: float


@dataclass(frozen=True, slots=True)
class RatedCut:
    """One deployed (split point, codec) pair as an answer to "what should this device use now".

    ``agreement``: share of images whose top-1 equals the full network's, for the asked classes (``None``: never
    measured), with its Wilson interval. ``latency_ms`` at the asked bandwidth and round-trip time, NaN where no time is
    known (JSON null, as for every unknown value of a recommendation). ``verdict``:
    "picked", or why not ("inaccurate", "unmeasured", "violates", "slower", "larger", "unproven"). ``reason`` in words.
    """

    split_point: str
    codec: str
    agreement: float | None
    agreement_low: float | None
    agreement_high: float | None
    agreement_count: float
    agreement_source: str
    nbytes: float
    latency_ms: float
    latency_source: str
    head_macs: int
    verdict: str
    reason: str
    violations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place for a bottleneck, ranked by the predictor. ``is_candidate``: the rule selects it."""

    split_point: str
    predictor_value: float
    standard_error: float
    source: str
    live_count: float
    profile_count: float
    nbytes: int
    is_candidate: bool
    reason: str


class Pick(NamedTuple):
    """A pick in force: of ``kind`` "use" (a choice) or "place" (for a bottleneck).

    ``since``: epoch seconds of the observation that brought it, ``None`` while it is the profile's. ``changes``: how
    often picks of this model and group changed so far. ``rival``: what is estimated to be better now but not proven
    so, and ``reason`` why not; ``None`` and empty where nothing is.
    """

    kind: str
    pick: str | None
    since: float | None
    changes: int
    rival: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The endpoint's answer: ``use`` (what to use now) and ``candidates`` (where a bottleneck is worth placing).

    ``confidence`` in [0, 1]: the lower end of the 95 % Wilson interval of the picked choice's agreement, 0 when it was
    never measured. ``source``: "profile" with no traffic, "live" or "mixed". ``as_of``: epoch seconds of the newest
    observation, ``None`` with no traffic. Same store contents and same question give the same ``revision``.
    ``standing``: the picks in force, for the question about the live mix without limits; they change on evidence only.
    """

    model: str
    version: str
    network_hash: str
    revision: str
    as_of: float | None
    source: str
    mix: str
    group: str
    classes: tuple[ClassShare, ...]
    use: RatedCut
    choices: tuple[RatedCut, ...]
    rule: str
    candidate_set: str
    predictor: str
    pick: str | None
    candidates: tuple[Candidate, ...]
    curve: tuple[CurvePoint, ...]
    confidence: float
    observations: int
    reason: str
    standing: tuple[Pick, ...] = ()

    @property
    def split_point(self) -> str:
        return self.use.split_point

    @property
    def codec(self) -> str:
        return self.use.codec

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types; every row is an object with names, so that curl users can read it. NaN becomes null."""
        # By hand: asdict copies every value, which takes longer than working the answer out.
        raw = {name: getattr(self, name) for name in self.__slots__}
        raw["classes"] = [
            {"class_id": c, "label": label, "weight": weight} for c, label, weight in self.classes
        ]
        raw["standing"] = [p._asdict() for p in self.standing]
        raw["curve"] = [_nan_to_null(p._asdict()) for p in self.curve]
        raw["candidates"] = [_nan_to_null(_shallow(c)) for c in self.candidates]
        raw["choices"] = [_nan_to_null(_shallow(c)) for c in self.choices]
        raw["use"] = _nan_to_null(_shallow(self.use))
        raw["split_point"], raw["codec"] = self.split_point, self.codec
        return raw

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Recommendation:
        """Read an answer; fields that a newer server adds are ignored. Raises ArtifactError where one is missing."""
        try:
            fields = {k: raw[k] for k in cls.__slots__ if k != "standing"}
            fields["standing"] = tuple(
                Pick(**_known(Pick._fields, p)) for p in raw.get("standing", ())
            )
            fields["classes"] = tuple(
                ClassShare(**_known(ClassShare._fields, c)) for c in raw["classes"]
            )
            fields["curve"] = tuple(
                CurvePoint(**_null_to_nan(_known(CurvePoint._fields, p), "cui", "standard_error"))
                for p in raw["curve"]
            )
            fields["candidates"] = tuple(
                Candidate(
                    **_null_to_nan(
                        _known(Candidate.__slots__, c), "predictor_value", "standard_error"
                    )
                )
                for c in raw["candidates"]
            )
            fields["choices"] = tuple(_choice(c) for c in raw["choices"])
            fields["use"] = _choice(raw["use"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(
                f"not a recommendation ({type(error).__name__}: {error})"
            ) from error


def _shallow(row: RatedCut | Candidate) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def _choice(raw: Mapping[str, Any]) -> RatedCut:
    row = _null_to_nan(_known(RatedCut.__slots__, raw), "latency_ms")
    return RatedCut(**{**row, "violations": tuple(raw["violations"])})


def _known(names: tuple[str, ...], row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}


def _nan_to_null(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def _null_to_nan(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {k: math.nan if v is None and k in names else v for k, v in row.items()}
