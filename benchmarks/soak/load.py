"""Clients that predict, ask and label all the time, and what came of it."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from isplit_plugin.client import SplitClient, fetch_recommendation, send_labels
from isplit_plugin.errors import IsplitError
from isplit_plugin.serving.launcher import TorchServe

from .models import CUTS, NAME, Version, photos

CLIENTS: Final = 2
"""Devices of each version."""
PAUSE_S: Final = 0.05
"""Between two predictions of one device."""
ASK_EVERY: Final = 20
"""Predictions between two questions of one device."""
LABEL_EVERY_S: Final = 2.0
DEADLINE_S: Final = 20.0
"""Of a question, and of a call with labels."""


class Failure(NamedTuple):
    """What an app would have seen. ``at``: monotonic seconds."""

    at: float
    what: str
    error: str


@dataclass
class Load:
    """All clients of a soak.

    Attributes:
        answered: When each prediction was answered, monotonic seconds, by version.
        failed: Predictions that failed in spite of the client's own retries.
        questions: Questions to the endpoint that were answered.
        unanswered: Those that were not, and labels that were not taken.
        labels: Labels that the server stored.
        slowest_s: The longest that a prediction took.
    """

    server: TorchServe
    versions: list[Version]
    label_secret: str
    answered: dict[str, list[float]] = field(default_factory=dict)
    failed: list[Failure] = field(default_factory=list)
    questions: int = 0
    unanswered: list[Failure] = field(default_factory=list)
    labels: int = 0
    slowest_s: float = 0.0
    _threads: list[threading.Thread] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _recent: deque[tuple[str, int]] = field(default_factory=lambda: deque(maxlen=50))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Clients run within it."""
        threads = self._threads
        threads.append(threading.Thread(target=self._back_office))
        for version in self.versions:
            self.answered[version.number] = []
            threads += [
                threading.Thread(target=self._device, args=(version, number))
                for number in range(CLIENTS)
            ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    @property
    def total(self) -> int:
        """Answered predictions of all versions."""
        return sum(map(len, self.answered.values()))

    def check(self) -> None:
        """Raise RuntimeError if a client ended before its time."""
        if not all(thread.is_alive() for thread in self._threads):
            raise RuntimeError("a client ended before its time: its error is above")

    def _device(self, version: Version, number: int) -> None:
        images = photos()
        with SplitClient(
            self.server.inference_url,
            model=NAME,
            version=version.number,
            head=version.bundle,
            token=self.server.token,
            group=f"group {number}",
            threads=1,
        ) as client:
            for turn in itertools.count():
                if self._stop.wait(PAUSE_S):
                    return
                self._predict(client, version, images[turn % len(images)], CUTS[turn % len(CUTS)])
                if turn % ASK_EVERY == 0:
                    self._ask(version)

    def _predict(self, client: SplitClient, version: Version, image: object, cut: str) -> None:
        started = time.monotonic()
        try:
            prediction = client.predict(image, cut)  # type: ignore[arg-type]
        except IsplitError as error:
            self.failed.append(_failure(f"prediction of {version.number} at {cut}", error))
        else:
            now = time.monotonic()
            self.answered[version.number].append(now)
            self.slowest_s = max(self.slowest_s, now - started)
            self._recent.append((prediction.request_id, prediction.class_id))

    def _ask(self, version: Version) -> None:
        url, token = self.server.inference_url, self.server.token
        try:
            fetch_recommendation(url, NAME, token, deadline=DEADLINE_S)
        except IsplitError as error:
            self.unanswered.append(_failure(f"question of {version.number}", error))
        else:
            self.questions += 1

    def _back_office(self) -> None:
        while not self._stop.wait(LABEL_EVERY_S):
            labels = dict(self._recent)
            self._recent.clear()
            if not labels:
                continue
            url, token = self.server.inference_url, self.server.token
            try:
                report = send_labels(url, labels, self.label_secret, token, deadline=DEADLINE_S)
            except IsplitError as error:
                self.unanswered.append(_failure("labels", error))
            else:
                self.labels += report.taken


def _failure(what: str, error: IsplitError) -> Failure:
    return Failure(time.monotonic(), what, f"{type(error).__name__}: {error.message[:300]}")
