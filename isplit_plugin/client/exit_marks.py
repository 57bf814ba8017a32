"""The newest release of each cut that this device has had: none that is older is taken again.

A release is signed, and holds until it expires. Without marks, whoever sends an old one again could
bring a class back that was withdrawn since. In a folder, they outlive the app.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..errors import ArtifactError, QueryError, WireError
from ..exits import ExitRelease
from ..files import write_atomically
from ..schema import Cut
from ..wire import load_json

MAX_MARKS: Final = 64
"""Cuts with a mark, at most; those with the oldest releases go first."""
MAX_FILE_BYTES: Final = 64 * 1024
_KIND: Final = "isplit_exit_marks"
_FORMAT: Final = 1
_VERSION: Final = re.compile(r"[0-9a-f]{64}")
_MAX_TIME: Final = 2**37  # in the year 6325
_LOGGER = logging.getLogger("isplit.client")


class Mark(NamedTuple):
    """What is kept of a release: its exit version, its number, and when it was issued."""

    version: str
    number: int
    issued: float

    def is_newer_than(self, release: ExitRelease) -> bool:
        """Whether a release came before this one."""
        if release.version == self.version:
            return release.number < self.number
        return release.issued < self.issued


class ExitMarks:
    """The marks of one network. Several threads may use them, and several processes their file.

    Parameters:
        folder: where to keep them; ``None`` for in memory alone. It is made if it is missing.
        network_hash: of the network.

    A file that is damaged counts as none, and one that cannot be written keeps nobody waiting: both
    are logged.

    Raises:
        ArtifactError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path | None, network_hash: str) -> None:
        self._lock = threading.Lock()
        self._network_hash = network_hash
        self._path: Path | None = None
        if folder is not None:
            name = hashlib.sha256(network_hash.encode()).hexdigest()[:16]
            self._path = Path(folder) / f"exits-{name}.json"
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ArtifactError(
                    f"state_dir {folder}: expected a folder, got {error.strerror}"
                ) from error
        self._marks = self._read()

    def accepts(self, cut: Cut, release: ExitRelease) -> bool:
        """Whether a release is not older than the newest one of its cut."""
        with self._lock:
            mark = self._marks.get(cut)
        return mark is None or not mark.is_newer_than(release)

    def keep(self, cut: Cut, release: ExitRelease) -> None:
        """Take note of a release that is in use now. Never raises."""
        mark = Mark(release.version, release.number, release.issued)
        with self._lock:
            if self._marks.get(cut) == mark:
                return
            # Another process may have had a newer release of another cut, or of this one.
            for other, stored in self._read().items():
                own = self._marks.get(other)
                if own is None or stored.issued > own.issued:
                    self._marks[other] = stored
            self._marks[cut] = mark
            newest = sorted(self._marks.items(), key=lambda item: item[1].issued)[-MAX_MARKS:]
            self._marks = dict(newest)
            self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        content = {
            _KIND: _FORMAT,
            "network_hash": self._network_hash,
            "cuts": {str(cut): list(mark) for cut, mark in self._marks.items()},
        }
        try:
            write_atomically(self._path, json.dumps(content).encode(), mode=0o600)
        except OSError as error:
            _LOGGER.warning("%s: cannot be written (%s)", self._path, error.strerror)

    def _read(self) -> dict[Cut, Mark]:
        if self._path is None:
            return {}
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
            return read_marks(data, self._network_hash)
        except FileNotFoundError:
            return {}
        except OSError as error:
            _LOGGER.warning("%s: cannot be read (%s)", self._path, error.strerror)
            return {}
        except ArtifactError as error:
            _LOGGER.warning("%s: %s", self._path, error.message)
            return {}


def read_marks(data: bytes, network_hash: str) -> dict[Cut, Mark]:
    """The marks in a file's bytes. Raises ArtifactError for anything else."""
    if len(data) > MAX_FILE_BYTES:
        raise ArtifactError(f"marks of exits: expected at most {MAX_FILE_BYTES} bytes, got more")
    try:
        raw: Mapping[str, Any] = load_json(data, "marks of exits", max_values=8 * MAX_MARKS)
        if raw[_KIND] != _FORMAT or raw["network_hash"] != network_hash:
            raise ValueError(f"expected {_KIND} {_FORMAT} of this network")
        return {Cut.parse(cut): _mark(row) for cut, row in raw["cuts"].items()}
    except (
        WireError,
        QueryError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
    ) as error:
        raise ArtifactError(f"marks of exits: not readable ({str(error)[:100]})") from error


def _mark(row: Any) -> Mark:
    version, number, issued = row
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise ValueError("expected the version of an exit")
    if type(number) is not int or not 1 <= number < 2**63:
        raise ValueError("expected the number of a release")
    if isinstance(issued, bool) or not isinstance(issued, int | float):
        raise TypeError("expected a time")
    if not (math.isfinite(issued) and 0 <= issued < _MAX_TIME):
        raise ValueError("expected seconds since the epoch")
    return Mark(version, number, float(issued))
