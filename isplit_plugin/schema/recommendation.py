"""The answer of the recommendation endpoint, as Python values and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ..errors import ArtifactError, QueryError
from .cut import Cut
from .typed import filled

OBJECTIVES: Final = ("latency", "bytes")
"""What a cut may be chosen for."""
LATEST_S: Final = 253_402_300_799
"""The last second of the year 9999, the latest that a clock of Python shows."""


class CurvePoint(NamedTuple):
    """One point of a CUI curve.

    Attributes:
        cui: the mean; ``standard_error`` of that mean.
        source: "live", "profile" or "mixed".
        live_count, profile_count: the observations and calibration images behind the mean.
        nbytes: size of the uncoded activation of one image.
        devices: a lower bound of the distinct devices behind the live part; ``None`` where devices
            are not known.
    """

    split_point: str
    cui: float
    standard_error: float
    source: str
    live_count: float
    profile_count: float
    nbytes: int
    devices: int | None = None


class ClassShare(NamedTuple):
    """A class of the mix and its weight. The weights of a mix sum to 1."""

    class_id: int
    label: str
    weight: float


@dataclass(frozen=True, slots=True)
class RatedCut:
    """A deployed cut with its accuracy, bytes and latency, and the verdict on it.

    Attributes:
        agreement: share of images whose top-1 class equals the full network's, for the classes of
            the mix, with its Wilson interval ``agreement_low`` to ``agreement_high``; ``None``
            where it was never measured.
        nbytes: mean bytes of the body of a request with one image.
        latency_ms: predicted for one image on the link of the question; NaN (JSON null) where a
            part of it is unknown.
        device_ms, server_ms: the parts of the latency that are not the link's: head and encoding
            on the device, decoding and tail on the server; NaN (JSON null) where unknown.
        verdict: "picked", or why the cut was not: "inaccurate", "unmeasured", "violates",
            "slower", "larger" or "unproven". ``reason`` says it in words.
        violations: the limits of the question that the cut breaks, in words.
        undecided: whether its agreement is below the tolerance, on too few photos to tell.
        photos_needed: about how many photos would tell, where it is undecided.
        byte_ratio: its bytes over those of the best photo; NaN (JSON null) without a faithful photo.
        tail_share: the share of the network's time on the device that is left to the server, 1 at
            `input` and 0 at `output`; NaN (JSON null) where it was not measured. A split can be
            faster than both the photo and the whole network on the device only where
            ``byte_ratio < tail_share``.
        round_trips: how many requests a photo takes on average: 0 at `output`, more than 1 at a
            refining cut, whose bytes are those of all of them.
    """

    cut: Cut
    agreement: float | None
    agreement_low: float | None
    agreement_high: float | None
    agreement_count: float
    agreement_source: str
    nbytes: float
    latency_ms: float
    latency_source: str
    device_ms: float
    server_ms: float
    head_macs: int
    verdict: str
    reason: str
    violations: tuple[str, ...] = ()
    undecided: bool = False
    photos_needed: int | None = None
    byte_ratio: float = math.nan
    tail_share: float = math.nan
    round_trips: float = 1.0

    @property
    def is_accurate(self) -> bool:
        """Whether the cut is accurate enough and breaks no limit: it was picked, or only beaten."""
        return self.verdict in ("picked", "slower", "larger", "unproven")

    @property
    def split_point(self) -> str:
        """The cut's split point."""
        return self.cut.split_point

    @property
    def codec(self) -> str:
        """The cut's codec."""
        return self.cut.codec


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place for a bottleneck, ranked by the predictor. ``is_candidate``: the rule selects it."""

    split_point: str
    predictor_value: float
    standard_error: float
    source: str
    live_count: float
    profile_count: float
    nbytes: int
    is_candidate: bool
    reason: str


class StandingPick(NamedTuple):
    """The cut in force for the live mix of a device group.

    Attributes:
        since: epoch seconds of the observation that brought it in; ``None`` while it is still the
            profile's pick.
        changes: how often the pick of this model and group has changed.
        rival: the cut that is estimated to be better now, but is not proven so, and the ``reason``
            why not; ``None`` and empty where there is none.
    """

    cut: Cut
    since: float | None
    changes: int
    rival: Cut | None = None
    reason: str = ""


class CutExit(NamedTuple):
    """The exit of a cut: answers of the device itself, see :mod:`isplit_plugin.exits`.

    Attributes:
        version: of the exit, 64 hexadecimal digits.
        release: the number of its present release.
        expires: epoch seconds from which on no device answers by it.
        share: the released share: of the photos with an answer of the exit, those that devices may
            answer by it now. The endpoint does not know of how many photos the exit has no answer,
            so of all photos of the fleet at the cut, devices answer at most this share, and far less
            where the exit does not know most of the classes.
    """

    cut: Cut
    version: str
    release: int
    expires: float
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The endpoint's answer to "where should this device cut?".

    Attributes:
        use: the cut to use now. ``cuts`` holds every deployed cut, best first.
        candidates: where a bottleneck is worth training, ranked by ``predictor``;
            ``best_candidate`` is the one that ``rule`` picks, ``None`` where it picks none.
        curve: the CUI curve of the mix.
        standing: the pick in force, for questions about the live mix without limits.
        confidence: lower end of the 95 % Wilson interval of the agreement of ``use``; 0 where it
            was never measured.
        source: "profile" without traffic, else "live" or "mixed".
        as_of: epoch seconds of the newest observation, ``None`` without traffic.
        revision: equal for equal questions to a store that did not change in between.
        exits: the exits that are alive, at most one for each cut.
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
    cuts: tuple[RatedCut, ...]
    rule: str
    candidate_set: str
    predictor: str
    best_candidate: str | None
    candidates: tuple[Candidate, ...]
    curve: tuple[CurvePoint, ...]
    confidence: float
    observations: int
    reason: str
    standing: StandingPick | None = None
    exits: tuple[CutExit, ...] = ()

    @property
    def cut(self) -> Cut:
        """The cut to use now."""
        return self.use.cut

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types. NaN becomes null; a cut is its text form beside its two parts."""
        # Not dataclasses.asdict: it copies every value, which takes longer than the whole answer.
        raw = {name: getattr(self, name) for name in self.__slots__}
        raw["cut"] = str(self.cut)
        raw["classes"] = [share._asdict() for share in self.classes]
        raw["standing"] = None if self.standing is None else _standing_to_json(self.standing)
        raw["exits"] = [{**row._asdict(), "cut": str(row.cut)} for row in self.exits]
        raw["curve"] = [_nan_to_null(point._asdict()) for point in self.curve]
        raw["candidates"] = [_nan_to_null(_slots(row)) for row in self.candidates]
        raw["cuts"] = [_rated_to_json(row) for row in self.cuts]
        raw["use"] = _rated_to_json(self.use)
        return raw

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Recommendation:
        """Read an answer and ignore fields that a newer server adds.

        Raises ArtifactError where a field is missing, of another type, or infinite.
        """
        try:
            values = {name: raw[name] for name in cls.__slots__}
            if raw["standing"] is not None:
                values["standing"] = _standing_from_json(raw["standing"])
            values["classes"] = tuple(
                filled(ClassShare, _only(ClassShare._fields, row)) for row in raw["classes"]
            )
            values["curve"] = tuple(_point_from_json(row) for row in raw["curve"])
            values["candidates"] = tuple(_candidate_from_json(row) for row in raw["candidates"])
            values["cuts"] = tuple(_rated_from_json(row) for row in raw["cuts"])
            values["use"] = _rated_from_json(raw["use"])
            values["exits"] = tuple(_exit_from_json(row) for row in raw["exits"])
            _check_time(values["as_of"])
            return filled(cls, values)
        except (KeyError, TypeError, ValueError, AttributeError, QueryError) as error:
            raise ArtifactError(
                f"not a recommendation ({type(error).__name__}: {error})"
            ) from error


_NUMBERS: Final = ("latency_ms", "device_ms", "server_ms", "byte_ratio", "tail_share")
"""Fields of a rated cut that are null in JSON where they are NaN."""


def _rated_to_json(row: RatedCut) -> dict[str, Any]:
    raw = _nan_to_null(_slots(row))
    raw |= {"cut": str(row.cut), "split_point": row.split_point, "codec": row.codec}
    raw["quality"] = row.cut.quality
    return raw


def _rated_from_json(raw: Mapping[str, Any]) -> RatedCut:
    row = _null_to_nan(_only(RatedCut.__slots__, raw), *_NUMBERS)
    row["cut"] = Cut.parse(raw["cut"])
    if not all(isinstance(text, str) for text in raw["violations"]):
        raise TypeError("RatedCut.violations: expected strings")
    row["violations"] = tuple(raw["violations"])
    return filled(RatedCut, row)


def _standing_to_json(pick: StandingPick) -> dict[str, Any]:
    rival = None if pick.rival is None else str(pick.rival)
    return {**pick._asdict(), "cut": str(pick.cut), "rival": rival}


def _standing_from_json(raw: Mapping[str, Any]) -> StandingPick:
    row = _only(StandingPick._fields, raw)
    row["cut"] = Cut.parse(raw["cut"])
    row["rival"] = None if raw["rival"] is None else Cut.parse(raw["rival"])
    _check_time(row["since"])
    return filled(StandingPick, row)


def _exit_from_json(raw: Mapping[str, Any]) -> CutExit:
    row = _only(CutExit._fields, raw)
    row["cut"] = Cut.parse(raw["cut"])
    _check_time(row["expires"])
    if not 0 <= row.get("share", 0.0) <= 1:
        raise ValueError(f"expected a share from 0 to 1, got {str(row['share'])[:20]}")
    return filled(CutExit, row)


def _point_from_json(raw: Mapping[str, Any]) -> CurvePoint:
    row = _only(CurvePoint._fields, raw)
    return filled(CurvePoint, _null_to_nan(row, "cui", "standard_error"))


def _candidate_from_json(raw: Mapping[str, Any]) -> Candidate:
    row = _only(Candidate.__slots__, raw)
    return filled(Candidate, _null_to_nan(row, "predictor_value", "standard_error"))


def _check_time(seconds: Any) -> None:
    """Raise ValueError for epoch seconds that no clock shows."""
    if isinstance(seconds, int | float) and not 0 <= seconds <= LATEST_S:
        raise ValueError(f"expected seconds since 1970, got {str(seconds)[:20]}")


def _slots(row: RatedCut | Candidate) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def _only(names: tuple[str, ...], row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}


def _nan_to_null(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def _null_to_nan(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {k: math.nan if v is None and k in names else v for k, v in row.items()}
