"""What device and server say to each other about an exit: a statement, and a release.

A **statement** travels with a request: what the exit says of its photo. A **release** says which
classes of a version devices may answer by themselves, from which bin on, and which share of these
answers they send as well. It is signed as the exit is, expires, and is numbered: a later one
replaces it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

from ..errors import ExitError, QueryError, WireError
from ..schema import Cut
from .exit import BINS
from .sums import MAX_CLASSES

MIN_VERSION: Final = 16
"""Digits of a version in statements and in the names of releases."""
CLOCK_SKEW_S: Final = 300.0
"""How far a device's clock may be behind the time at which its release was issued."""
MAX_RELEASE_BYTES: Final = 1 << 20
_AUDIT: Final = "audit"
_KIND: Final = "isplit_exit_release"
_FORMAT: Final = 1
_VERSION: Final = re.compile(r"[0-9a-f]{16,64}")
_STATEMENT: Final = re.compile(r"([0-9a-f]{16,64}):([0-9]{1,6}):([0-9]{1,3})(?::(audit))?")


class ExitStatement(NamedTuple):
    """What an exit says of one photo. Its text is what travels.

    Attributes:
        version: of the exit, its first 16 digits at least.
        class_id, bin: its answer, and the bin of the margin.
        audit: whether the device has answered by it already.
    """

    version: str
    class_id: int
    bin: int
    audit: bool = False

    def __str__(self) -> str:
        text = f"{self.version[:MIN_VERSION]}:{self.class_id}:{self.bin}"
        return f"{text}:{_AUDIT}" if self.audit else text

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a statement. Raises WireError."""
        match = _STATEMENT.fullmatch(text)
        if match is None or int(match[3]) >= BINS:
            raise WireError(
                f"exit: expected <version>:<class>:<bin 0 to {BINS - 1}>[:audit], got {text[:80]!a}"
            )
        return cls(match[1], int(match[2]), int(match[3]), match[4] is not None)


class ClassRelease(NamedTuple):
    """What a device may do with an exit's answer of one class.

    Attributes:
        bin: from this bin on it answers by itself.
        audit: the share of these answers that it sends as well.
    """

    bin: int
    audit: float


@dataclass(frozen=True, slots=True)
class ExitRelease:
    """Which classes of one version of an exit devices may answer by themselves.

    Attributes:
        version: of the exit, 64 digits.
        number: from 1 on.
        issued, expires: epoch seconds. From ``expires`` on no device answers by it.
        tolerance: the share of the exit's answers that may differ from the tail's, as proven.
        classes: by class id.
    """

    network_hash: str
    cut: Cut
    version: str
    number: int
    issued: float
    expires: float
    tolerance: float
    classes: Mapping[int, ClassRelease] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``<version>.<number>``, with 16 digits of the version."""
        return f"{self.version[:MIN_VERSION]}.{self.number}"

    def in_time(self, now: float) -> bool:
        """Whether a device may use it now.

        Not where its clock is before the release was issued, by more than ``CLOCK_SKEW_S``: such a
        clock does not tell when the release ends.
        """
        return not self.is_ahead(now) and now < self.expires

    def is_ahead(self, now: float) -> bool:
        """Whether it was issued after ``now``, by more than ``CLOCK_SKEW_S``: one clock is wrong."""
        return now < self.issued - CLOCK_SKEW_S

    def allows(self, class_id: int, bin_index: int, now: float) -> bool:
        """Whether a device may answer by itself now."""
        released = self.classes.get(class_id)
        return self.in_time(now) and released is not None and bin_index >= released.bin

    def to_bytes(self) -> bytes:
        """As JSON. Equal releases give equal bytes."""
        content = {
            _KIND: _FORMAT,
            "network_hash": self.network_hash,
            "cut": str(self.cut),
            "version": self.version,
            "number": self.number,
            "issued": self.issued,
            "expires": self.expires,
            "tolerance": self.tolerance,
            "classes": {str(c): list(r) for c, r in sorted(self.classes.items())},
        }
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what :meth:`to_bytes` wrote. Raises ExitError for anything else."""
        try:
            return cls._read(data)
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
            QueryError,
        ) as error:
            raise ExitError(
                f"release of an exit: not readable ({type(error).__name__}: {str(error)[:200]})",
                reason="malformed",
            ) from error

    @classmethod
    def _read(cls, data: bytes) -> Self:
        if len(data) > MAX_RELEASE_BYTES:
            raise ValueError(f"expected at most {MAX_RELEASE_BYTES} bytes, got {len(data)}")
        raw = json.loads(data)
        if raw.get(_KIND) != _FORMAT:
            raise ValueError(f"expected {_KIND} {_FORMAT}")
        if not _VERSION.fullmatch(raw["version"]) or type(raw["number"]) is not int:
            raise ValueError("expected a version and a number")
        times = [float(raw[name]) for name in ("issued", "expires")]
        if not all(map(math.isfinite, times)) or raw["number"] < 1:
            raise ValueError("expected finite times, and a number from 1 on")
        tolerance = float(raw["tolerance"])
        if not 0 < tolerance < 1:
            raise ValueError("expected a tolerance above 0 and below 1")
        classes = raw["classes"]
        if len(classes) > MAX_CLASSES:
            raise ValueError(f"expected at most {MAX_CLASSES} classes, got {len(classes)}")
        return cls(
            str(raw["network_hash"]),
            Cut.parse(str(raw["cut"])),
            raw["version"],
            raw["number"],
            times[0],
            times[1],
            tolerance,
            {_class_id(name): _class_release(value) for name, value in classes.items()},
        )


def _class_id(name: str) -> int:
    if not (name.isascii() and name.isdigit() and len(name) < 8):
        raise ValueError(f"expected a class id, got {name[:20]!r}")
    return int(name)


def _class_release(value: Any) -> ClassRelease:
    bin_index, audit = value
    if type(bin_index) is not int or not 0 <= bin_index < BINS:
        raise ValueError(f"expected a bin from 0 to {BINS - 1}, got {str(bin_index)[:20]}")
    if isinstance(audit, bool) or not isinstance(audit, int | float) or not 0 < audit <= 1:
        raise ValueError(f"expected a share above 0 and at most 1, got {str(audit)[:20]}")
    return ClassRelease(bin_index, float(audit))
