"""The newest release of each cut that this device has had: none that is older is taken again.

A release is signed, and holds until it expires. Without marks, whoever sends an old one again could
bring a class back that was withdrawn since. In a folder, they outlive the app, and several processes
share them: what one has taken, no other goes back behind.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..errors import ArtifactError, QueryError, WireError
from ..exits import ExitRelease
from ..files import write_atomically
from ..schema import Cut
from ..wire import load_json

try:
    import fcntl
except ImportError:  # Windows: processes that decide at the same moment may miss each other
    fcntl = None  # type: ignore[assignment]

MAX_MARKS: Final = 64
"""Cuts with a mark, at most; those with the oldest releases go first."""
MAX_FILE_BYTES: Final = 64 * 1024
LOCK_S: Final = 5.0
"""Seconds that a process waits for another to have written its marks."""
_LOCK_RETRY_S: Final = 0.01
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

    def is_newer_than(self, other: Mark) -> bool:
        """Whether another release came before this one."""
        if other.version == self.version:
            return other.number < self.number
        return other.issued < self.issued


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

    def take(self, cut: Cut, release: ExitRelease) -> bool:
        """Take note of a release, unless it is older than the newest one of its cut.

        ``False`` where it is older, and then it must not be used. Never raises. With a folder, all
        processes that share it decide one after the other.
        """
        mark = Mark(release.version, release.number, release.issued)
        with self._lock, self._alone():
            stored = self._read()
            self._merge(stored)
            newest = self._marks.get(cut)
            if newest is not None and newest.is_newer_than(mark):
                return False
            if stored.get(cut) != mark:
                self._merge({cut: mark})
                self._write()
            return True

    def _merge(self, marks: Mapping[Cut, Mark]) -> None:
        """Move on to newer marks, and to none that is older."""
        merged = dict(self._marks)
        for cut, mark in marks.items():
            own = merged.get(cut)
            if own is None or not own.is_newer_than(mark):
                merged[cut] = mark
        newest = sorted(merged.items(), key=lambda item: item[1].issued)[-MAX_MARKS:]
        self._marks = dict(newest)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from the folder's marks, where the system can."""
        if self._path is None or fcntl is None:
            yield
            return
        try:
            folder = os.open(self._path.parent, os.O_RDONLY)
        except OSError:  # the file cannot be read or written either, and that is told
            yield
            return
        try:
            _lock(folder)
            yield
        finally:
            os.close(folder)  # which ends the lock

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


def _lock(folder: int) -> None:
    """Take an exclusive lock, or go on without it after ``LOCK_S``: another process may hang."""
    until = time.monotonic() + LOCK_S
    while time.monotonic() < until:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_RETRY_S)
        except OSError:  # a file system without locks
            return
        else:
            return


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
