"""Exits on a device: fetched, verified, watched, and answering where they are released.

An exit answers from the activation that the tail would get, decoded from what would be sent. While
nothing of it is released it only watches: the request says what it would have answered. Fetching
and audits run in a thread of their own, which ends when there is nothing to do. Whatever goes wrong
with an exit, the photo is sent.
"""

from __future__ import annotations

import logging
import math
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from ..errors import IsplitError
from ..exits import (
    MIN_VERSION,
    NONE,
    Exit,
    ExitRelease,
    ExitStatement,
    pool,
)
from ..printable import printable
from ..schema import (
    INPUT,
    OUTPUT,
    Cut,
    FloatArray,
    Manifest,
    Prediction,
    Timings,
    TopClass,
)
from ..wire import MAX_LABEL
from .exit_marks import ExitMarks
from .recommendations import Subject
from .signed_exits import MAX_ANSWER_BYTES, ExitReader, PublicKey
from .transport import Transport

MAX_TASKS: Final = 16
RETRY_S: Final = 30.0
"""Seconds after which a fetch that failed is tried again."""
NO_RELEASE: Final = "none"
_RENEW: Final = 0.75
_RELEASE_NAME: Final = re.compile(r"[0-9a-f]{16,64}\.[0-9]{1,18}")
_LOGGER = logging.getLogger("isplit.client")


@dataclass(frozen=True, slots=True)
class ExitWord:
    """What an exit says of one photo.

    Attributes:
        statement: what a request says of it.
        version: of the exit.
        margin: by how much its class is ahead of the next one, in nats.
        answers: whether the device may answer by it.
        audit: whether the photo is sent besides.
    """

    statement: ExitStatement
    version: str
    margin: float
    answers: bool
    audit: bool

    @property
    def probability(self) -> float:
        """Of its class against the next one, from the margin."""
        return 1.0 / (1.0 + math.exp(-min(self.margin, 700.0)))


class ReleasedExit(NamedTuple):
    """What the exit of a cut may do on this device now.

    Attributes:
        version: of the exit.
        classes: that it may answer by itself, ascending.
        tolerance: the share of these answers that may differ from the tail's.
        audit_share: the share of these photos that is sent afterwards, on average over the classes.
    """

    version: str
    classes: tuple[int, ...]
    tolerance: float
    audit_share: float


class _Task(NamedTuple):
    """What waits for the thread in the background."""

    run: Callable[[], None]
    is_audit: bool


@dataclass(slots=True)
class _Held:
    exit: Exit
    release: ExitRelease
    until: float
    """By the monotonic clock: the release ends then, wherever the device's clock is set."""


class DeviceExits:
    """The exits of one client. Several threads may use it.

    Parameters:
        transport: for the endpoint.
        subject: the model that the endpoint is asked about.
        manifest: of the head bundle.
        key: the operator's public key.
        state_dir: a folder for the newest releases (:class:`.exit_marks.ExitMarks`); by default they
            are forgotten with this object.
        clock: epoch seconds.
        monotonic: seconds that nobody sets.
        draw: a number from 0 to 1, for audits.

    Raises:
        SecretError: the key is none.
        BundleError: the library that verifies signatures is missing.
        ArtifactError: ``state_dir`` cannot be made.
    """

    def __init__(
        self,
        transport: Transport,
        subject: Subject,
        manifest: Manifest,
        key: PublicKey,
        *,
        state_dir: str | Path | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._transport = transport
        self._subject = subject
        self._manifest = manifest
        self._reader = ExitReader(manifest, key)
        self._marks = ExitMarks(state_dir, manifest.network_hash)
        self._clock = clock
        self._monotonic = monotonic
        self._draw = draw
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._held: dict[Cut, _Held] = {}
        self._tried: dict[Cut, tuple[str, float]] = {}
        self._ended: dict[Cut, int] = {}
        self._refusals: dict[Cut, str] = {}
        self._tasks: deque[_Task] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._counts = dict.fromkeys(
            ("watched", "answered", "audited", "lost", "fetched", "refused"), 0
        )

    def ask(
        self, cut: Cut, decode: Callable[[], FloatArray], *, may_answer: bool = True
    ) -> ExitWord | None:
        """What the exit of a cut says of a photo; ``None`` where it says nothing. Never raises.

        Parameters:
            decode: the activation (1, *shape) as the tail decodes it; called only where there is an
                exit.
            may_answer: whether it may answer, where it is released.
        """
        with self._lock:
            held = self._held.get(cut)
        if held is None:
            return None
        now = self._clock()
        if held.exit.expired(now):
            self._drop(cut, held)
            return None
        self._renew(cut, held, now)
        try:
            axis = self._manifest.split_point(cut.split_point).channel_axis
            said = held.exit.answer(pool(decode()[0], axis, held.exit.pooling))
        except Exception as error:  # no exit may cost a prediction
            name = type(error).__name__
            _LOGGER.warning("%s: the exit says nothing (%s)", self._subject.model, name)
            return None
        if said.class_id == NONE:
            return None
        release = held.release
        in_time = self._monotonic() < held.until
        answers = may_answer and in_time and release.allows(said.class_id, said.bin, now)
        audit = answers and self._draw() < release.classes[said.class_id].audit
        if audit and self._is_full():
            answers = audit = False  # what should be audited and cannot be is sent as usual
        self._count("answered" if answers else "watched")
        return ExitWord(
            ExitStatement(held.exit.version, said.class_id, said.bin, audit=answers),
            held.exit.version,
            said.margin,
            answers,
            audit,
        )

    def note(self, cut: Cut, release: str) -> None:
        """Take note of the release that an answer names: fetch it, or drop what is withdrawn."""
        if not release or cut.split_point in (INPUT, OUTPUT):
            return
        if release == NO_RELEASE:
            with self._lock:
                ended = self._held.pop(cut, None)
                self._tried.pop(cut, None)
                self._ended[cut] = self._ended.get(cut, 0) + 1  # a fetch under way is too late
            if ended is not None:
                self._later(lambda: self._mark_last(cut, ended.exit))
            return
        if not _RELEASE_NAME.fullmatch(release):
            return  # it would become a part of a path
        with self._lock:
            held = self._held.get(cut)
        if held is None or held.release.name != release:
            self._fetch_later(cut, release)

    def audit(self, send: Callable[[], str], cut: Cut) -> None:
        """Send a photo that was answered here, later. ``send`` returns the release it was told.

        An audit is counted as audited or as lost, once it no longer waits.
        """

        def task() -> None:
            try:
                release = send()
            except Exception as error:  # an audit that is lost costs no prediction
                self._count("lost")
                name = type(error).__name__
                _LOGGER.warning("%s: an audit is lost (%s)", self._subject.model, name)
                return
            self._count("audited")
            self.note(cut, release)

        if not self._later(task, is_audit=True):
            self._count("lost")

    def version(self, cut: Cut) -> str:
        """The version of the exit that is kept for a cut; empty without one."""
        with self._lock:
            held = self._held.get(cut)
        return "" if held is None else held.exit.version

    def released(self, cut: Cut) -> ReleasedExit | None:
        """What the exit of a cut may answer now; ``None`` where it may answer nothing."""
        with self._lock:
            held = self._held.get(cut)
        if held is None:
            return None
        now, release = self._clock(), held.release
        in_time = release.in_time(now) and self._monotonic() < held.until
        if not in_time or not release.classes or held.exit.expired(now):
            return None
        audits = [of_class.audit for of_class in release.classes.values()]
        return ReleasedExit(
            held.exit.version,
            tuple(sorted(release.classes)),
            release.tolerance,
            sum(audits) / len(audits),
        )

    def refusal(self, cut: Cut) -> str:
        """Why the exit of a cut that was fetched last was not taken; empty where it was."""
        with self._lock:
            return self._refusals.get(cut, "")

    def counters(self) -> dict[str, int]:
        """Counts since the client was made.

        watched: photos of which an exit said something that is not released; answered: photos that
        it answered; audited: those that were sent besides; lost: those that should have been, but
        whose request failed, found no room, or still waited when the client was closed; fetched:
        exits and releases; refused: those that could not be verified, do not fit, or are older than
        what was kept.
        """
        with self._lock:
            return dict(self._counts)

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is fetched and no audit is sent; ``False`` if that takes longer.

        A program that ends after a few photos would lose its audits without it.
        """
        with self._idle:
            return self._idle.wait_for(lambda: self._thread is None, timeout_s)

    def close(self) -> None:
        """Forget what waits. A fetch or an audit under way ends with its request."""
        with self._lock:
            self._closed = True
            self._counts["lost"] += sum(task.is_audit for task in self._tasks)
            self._tasks.clear()

    # ------------------------------------------------------------------------- in the background

    def _renew(self, cut: Cut, held: _Held, now: float) -> None:
        """Fetch a release that gets old, although no answer may have named another."""
        release = held.release
        is_old = now >= release.issued + _RENEW * (release.expires - release.issued)
        if is_old or self._monotonic() >= held.until:
            self._fetch_later(cut, f"{release.version[:MIN_VERSION]}.renew")

    def _fetch_later(self, cut: Cut, name: str) -> None:
        now = self._monotonic()
        with self._lock:
            tried, at = self._tried.get(cut, ("", -math.inf))
            if tried == name and now - at < RETRY_S:
                return
            self._tried[cut] = (name, now)
        self._later(lambda: self._fetch(cut, name.partition(".")[0]))

    def _fetch(self, cut: Cut, version: str) -> None:
        with self._lock:
            held = self._held.get(cut)
            ended = self._ended.get(cut)
        known = None if held is None or not held.exit.version.startswith(version) else held.exit
        topic = "exit" if known is None else "release"
        path = f"{self._subject.path(topic)}/hash/{version}"
        try:
            reply = self._transport.get(path, max_bytes=MAX_ANSWER_BYTES)
            now = self._clock()
            fetched = self._reader.read(reply.body, cut, version, known, now)
        except (IsplitError, ValueError) as error:
            with self._lock:
                self._counts["refused"] += 1
                self._refusals[cut] = (
                    error.message if isinstance(error, IsplitError) else str(error)
                )
            code = error.code if isinstance(error, IsplitError) else type(error).__name__
            reason = error.details.get("reason", "") if isinstance(error, IsplitError) else ""
            _LOGGER.warning("%s: no exit at %s (%s %s)", self._subject.model, cut, code, reason)
            return
        release = fetched.release
        until = self._monotonic() + release.expires - max(now, release.issued)
        # Before it is used: no release that came before comes back, whatever happens now.
        is_newest = self._marks.take(cut, release)
        with self._lock:
            if ended != self._ended.get(cut) or not is_newest:
                self._counts["refused"] += 1
                return
            self._held[cut] = _Held(fetched.exit, release, until)
            self._refusals.pop(cut, None)
            self._counts["fetched"] += 1

    def _mark_last(self, cut: Cut, exit_: Exit) -> None:
        """Take note of the last release of an exit that has ended, which allows nothing.

        The word that it has ended is not signed, and leaves no mark. Without one, the release
        before it could come back until it expires.
        """
        path = f"{self._subject.path('release')}/hash/{exit_.version[:MIN_VERSION]}"
        try:
            reply = self._transport.get(path, max_bytes=MAX_ANSWER_BYTES)
            release = self._reader.read_last(reply.body, exit_)
        except (IsplitError, ValueError) as error:
            code = error.code if isinstance(error, IsplitError) else type(error).__name__
            _LOGGER.info("%s: no last release at %s (%s)", self._subject.model, cut, code)
            return
        self._marks.take(cut, release)

    def _drop(self, cut: Cut, held: _Held) -> None:
        with self._lock:
            if self._held.get(cut) is held:
                del self._held[cut]
                self._tried.pop(cut, None)

    def _is_full(self) -> bool:
        with self._lock:
            return len(self._tasks) >= MAX_TASKS

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def _later(self, run: Callable[[], None], *, is_audit: bool = False) -> bool:
        """Whether there is room for it."""
        with self._lock:
            if self._closed or len(self._tasks) >= MAX_TASKS:
                return False
            self._tasks.append(_Task(run, is_audit))
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="isplit-exits", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads: the next task tries again
                    return True
                self._thread = thread
            return True

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._tasks:
                    self._thread = None
                    self._idle.notify_all()
                    return
                task = self._tasks.popleft()
            try:
                task.run()
            except Exception as error:  # no exit may cost a prediction
                _LOGGER.warning("%s: %s of an exit", self._subject.model, type(error).__name__)


def exit_prediction(word: ExitWord, manifest: Manifest, cut: Cut, timings: Timings) -> Prediction:
    """The prediction of a photo that an exit answered."""
    class_id = word.statement.class_id
    label = printable(manifest.classes[class_id], limit=MAX_LABEL)
    return Prediction(
        top=(TopClass(class_id, label, word.margin, word.probability),),
        scores=None,
        cut=cut,
        bytes_sent=0,
        bytes_received=0,
        timings=timings,
        request_id="",
        exit=word.version,
        round_trips=0,
    )
