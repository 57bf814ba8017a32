"""What goes wrong on purpose, one thing after the other."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from isplit_plugin.serving.launcher import TorchServe

from .clock import Clocks
from .database import Database
from .models import NAME, WORKERS, Version

OUTAGE_S: Final = 4.0
STOPPED_S: Final = 3.0
SKEWED_S: Final = 10.0
SKEW_S: Final = 3600.0
PAUSE_S: Final = 5.0
"""Between two faults."""
RECOVERY_S: Final = 120.0
"""The longest that a killed worker may take to come back."""


class Fault(NamedTuple):
    """One fault. ``at`` and ``until``: monotonic seconds; ``pid``: whose, 0 for the database."""

    kind: str
    at: float
    until: float
    pid: int


@dataclass
class Faults:
    """Makes faults, and knows which process is whose.

    Of each version one worker is killed time and again, and another one never is, so that its
    memory can be watched. ``log`` is called with each fault, and
    ``check`` before each.
    """

    server: TorchServe
    database: Database
    clocks: Clocks
    versions: list[Version]
    log: Callable[[Fault], None]
    check: Callable[[], None]

    def __post_init__(self) -> None:
        self.steady = {version.number: self.pids(version)[-1] for version in self.versions}
        self.made: list[Fault] = []

    def pids(self, version: Version) -> tuple[int, ...]:
        """The processes of a version's workers."""
        return tuple(sorted(self.server.status(NAME, version=version.number).pids))

    def run(self, seconds: float) -> None:
        """Make faults for some time. Ends when the last one is over."""
        deadline = time.monotonic() + seconds
        kinds = [self._kill, self._stop, self._restart_database, self._skew]
        turn = 0
        while time.monotonic() < deadline:
            version = self.versions[turn // len(kinds) % len(self.versions)]
            self.check()
            fault = kinds[turn % len(kinds)](version)
            self.made.append(fault)
            self.log(fault)
            turn += 1
            _sleep(PAUSE_S, deadline)

    def _kill(self, version: Version) -> Fault:
        victim = next(pid for pid in self.pids(version) if pid != self.steady[version.number])
        at = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        while not self._is_whole(version, victim):
            if time.monotonic() - at > RECOVERY_S:
                raise TimeoutError(f"worker {victim} did not come back in {RECOVERY_S:g} s")
            time.sleep(0.2)
        return Fault("kill -9", at, time.monotonic(), victim)

    def _is_whole(self, version: Version, without: int) -> bool:
        status = self.server.status(NAME, version=version.number)
        ready = status.workers.count("READY")
        return ready == WORKERS and without not in status.pids

    def _stop(self, version: Version) -> Fault:
        pid, at = self.steady[version.number], time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(STOPPED_S)
        finally:
            os.kill(pid, signal.SIGCONT)
        return Fault("SIGSTOP", at, time.monotonic(), pid)

    def _restart_database(self, version: Version) -> Fault:
        at = time.monotonic()
        self.database.stop()
        try:
            time.sleep(OUTAGE_S)
        finally:
            self.database.start()
        return Fault("database restart", at, time.monotonic(), 0)

    def _skew(self, version: Version) -> Fault:
        """The clock an hour ahead, then an hour behind."""
        pid, at = self.steady[version.number], time.monotonic()
        try:
            for seconds in (SKEW_S, -SKEW_S):
                self.clocks.shift(pid, seconds)
                time.sleep(SKEWED_S / 2)
        finally:
            self.clocks.shift(pid, 0.0)
        return Fault("clock skew", at, time.monotonic(), pid)


def _sleep(seconds: float, deadline: float) -> None:
    time.sleep(max(0.0, min(seconds, deadline - time.monotonic())))
