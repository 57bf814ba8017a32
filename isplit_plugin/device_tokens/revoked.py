"""Revoked device ids: a list beside the operator's secret, read again when it changes.

The list of the secret ``device.secret`` is ``device.secret.revoked``. Each line holds an id and the
time of its revocation, in seconds since the epoch. Tokens that were issued up to that time are
revoked; a token that is issued later is valid, so a device can get its id back. A line with an id
alone revokes all tokens of the id. Empty lines, and lines that start with ``#``, say nothing.

Lines are only ever appended, so that two commands at once lose none.
"""

from __future__ import annotations

import logging
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from ..errors import SecretError
from .tokens import check_id

_LOGGER = logging.getLogger(__name__)
_MAX_BYTES: Final = 64 * 1024 * 1024
_Version = tuple[int, int, int] | None


def revoked_path(secret_file: str | Path) -> Path:
    """The list of revoked ids that belongs to a secret file."""
    path = Path(secret_file)
    return path.with_name(f"{path.name}.revoked")


def revoke(
    path: str | Path, device_ids: Iterable[str], *, clock: Callable[[], float] = time.time
) -> None:
    """Add ids to a list, which is made (mode 0600) if it does not exist.

    Raises:
        TokenError: an id cannot be one. Nothing is written then.
        SecretError: the list cannot be written.
    """
    ids = [check_id(device_id) for device_id in device_ids]
    # Tokens say when they were issued to the millisecond, rounded; one of this millisecond counts.
    now = math.ceil(clock() * 1000) / 1000
    text = "".join(f"{device_id} {now:.3f}\n" for device_id in ids)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            # After an edit by hand the last line may be open.
            is_open = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            file.write(("\n" * is_open + text).encode())
            os.fsync(descriptor)
    except OSError as error:
        reason = error.strerror or error
        raise SecretError(f"list of revoked ids {path}: cannot be written ({reason})") from error


class RevokedDevices:
    """The list of revoked ids, read again when the file changes. May be used by several threads.

    A list that does not exist is empty. If it can no longer be read, the ids read before stay
    revoked, and an error is logged.

    Parameters:
        path: the list; see :func:`revoked_path`.

    Raises:
        SecretError: the list exists and cannot be read, or others than its owner may write it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._version = self._version_now()
        self._times = _read(self.path) if self._version is not None else {}

    def since(self, device_id: str) -> float | None:
        """When the id was revoked, in seconds since the epoch; ``None`` if it is not.

        Tokens issued up to that time are revoked: all of them if it is infinite.
        """
        return self.times().get(device_id)

    def times(self) -> dict[str, float]:
        """The time of its revocation for each revoked id; see :meth:`since`."""
        if self._version_now() != self._version:
            with self._lock:
                self._read_again()
        return self._times

    def _read_again(self) -> None:
        version = self._version_now()
        try:
            self._times = _read(self.path) if version is not None else {}
        except SecretError as error:
            _LOGGER.error("isplit: %s; the ids read before stay revoked", error.message)
        self._version = version

    def _version_now(self) -> _Version:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError:
            return (0, 0, 0)
        return (status.st_ino, status.st_size, status.st_mtime_ns)


def _read(path: Path) -> dict[str, float]:
    """Raises SecretError."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(_MAX_BYTES + 1) if stat.S_ISREG(status.st_mode) else None
    except FileNotFoundError:
        return {}
    except OSError as error:
        reason = error.strerror or error
        raise SecretError(f"list of revoked ids {path}: cannot be read ({reason})") from error
    if data is None or len(data) > _MAX_BYTES:
        raise SecretError(
            f"list of revoked ids {path}: expected a file of at most {_MAX_BYTES} bytes"
        )
    if os.name == "posix" and status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        raise SecretError(
            f"list of revoked ids {path}: expected mode 0600, got {mode:04o}: others may write it"
        )
    times: dict[str, float] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        device_id, since = _entry(path, number, words)
        times[device_id] = max(since, times.get(device_id, -math.inf))
    return times


def _entry(path: Path, number: int, words: list[str]) -> tuple[str, float]:
    """Raises SecretError."""
    try:
        device_id, *times = words
        (since,) = map(float, times or ["inf"])
        if math.isnan(since):
            raise ValueError("nan")
    except ValueError:
        raise SecretError(
            f"list of revoked ids {path}, line {number}: expected an id and the seconds since the "
            f"epoch, got {' '.join(words)[:80]!r}"
        ) from None
    return device_id, since
