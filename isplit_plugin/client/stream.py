"""A camera's frames, classified without falling behind."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ..closing import Closing
from ..errors import IsplitError, QueryError
from ..image import Image
from ..schema import Prediction

DROPS: Final = ("oldest", "none")
MAX_IN_FLIGHT: Final = 16


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a stream and its answer.

    Attributes:
        index: its number among all frames that arrived, from 0.
        age_ms: from its arrival to its answer.
        prediction: the answer; ``None`` if it failed.
        error: why it failed; ``None`` if it did not.
    """

    index: int
    age_ms: float
    prediction: Prediction | None
    error: IsplitError | None


@dataclass(eq=False)
class _Job:
    index: int
    image: Image
    arrived_s: float
    frame: Frame | None = None


class FrameStream(Closing):
    """Classifies frames as they arrive and yields the answers in the frames' order::

        with client.stream(camera()) as stream:
            for frame in stream:
                if frame.prediction is not None:
                    print(frame.index, frame.prediction.label, f"{frame.age_ms:.0f} ms old")
            print(stream.dropped, "dropped,", f"{stream.rate:.1f} frames a second")

    While one frame travels, the head of the next one runs. A frame that cannot be read is yielded
    with its error, and the stream goes on.

    Parameters:
        predict: classifies one image.
        frames: read in a thread of its own. Where it waits for a camera, frames arrive in time.
        max_in_flight: frames that are worked on at once, 1 to 16; as many may wait.
        drop: "oldest": when too many wait, the one that waits longest is dropped and counted.
            "none": the reader waits, for files instead of a camera.

    Raises:
        QueryError: a parameter is out of range.
    """

    def __init__(
        self,
        predict: Callable[[Image], Prediction],
        frames: Iterable[Image],
        *,
        max_in_flight: int = 2,
        drop: str = "oldest",
    ) -> None:
        if drop not in DROPS:
            raise QueryError(f"drop: expected {' or '.join(DROPS)}, got {drop!r}", field="drop")
        if not 1 <= max_in_flight <= MAX_IN_FLIGHT:
            raise QueryError(
                f"max_in_flight: expected 1 to {MAX_IN_FLIGHT}, got {max_in_flight!r}",
                field="max_in_flight",
            )
        self._predict = predict
        self._frames = frames
        self._limit = max_in_flight
        self._drop = drop
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._taken: deque[_Job] = deque()
        self._read_all = False
        self._failure: BaseException | None = None
        self._closed = False
        self._dropped = 0
        self._answered = 0
        self._started_s = time.monotonic()
        self._threads = [
            threading.Thread(target=work, name=f"isplit stream {number}", daemon=True)
            for number, work in enumerate([self._read, *[self._work] * max_in_flight])
        ]
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self._next()) is not None:
            yield frame

    @property
    def dropped(self) -> int:
        """Frames that were dropped."""
        return self._dropped

    @property
    def rate(self) -> float:
        """Answered frames a second since the start."""
        return self._answered / max(time.monotonic() - self._started_s, 1e-9)

    def close(self) -> None:
        """Stop after the frames that are being worked on. ``frames`` is asked once more at most."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        for thread in self._threads[1:]:
            thread.join()

    def _next(self) -> Frame | None:
        """The next answer in order; ``None`` at the end. Raises what ``frames`` raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_ready() or self._is_over())
            if self._is_ready():
                job = self._taken.popleft()
                self._answered += 1
                self._changed.notify_all()
                return job.frame
            if self._failure is not None and not self._closed:
                raise self._failure
            return None

    def _is_ready(self) -> bool:
        return bool(self._taken) and self._taken[0].frame is not None

    def _is_over(self) -> bool:
        done = self._read_all and not self._waiting and not self._taken
        return done or (self._closed and not self._taken)

    def _read(self) -> None:
        try:
            for index, image in enumerate(self._frames):
                if not self._put(_Job(index, image, time.monotonic())):
                    return
        except BaseException as error:  # of the caller's iterator: the reader of answers gets it
            self._failure = error
        finally:
            with self._changed:
                self._read_all = True
                self._changed.notify_all()

    def _put(self, job: _Job) -> bool:
        """Queue a frame; whether the stream goes on."""
        with self._changed:
            if self._drop == "none":
                self._changed.wait_for(lambda: self._closed or len(self._waiting) < self._limit)
            elif len(self._waiting) >= self._limit:
                self._waiting.popleft()
                self._dropped += 1
            if self._closed:
                return False
            self._waiting.append(job)
            self._changed.notify_all()
            return True

    def _work(self) -> None:
        while (job := self._take()) is not None:
            prediction, problem = None, None
            try:
                prediction = self._predict(job.image)
            except IsplitError as error:
                problem = error
            age_ms = (time.monotonic() - job.arrived_s) * 1e3
            with self._changed:
                job.frame = Frame(job.index, age_ms, prediction, problem)
                self._changed.notify_all()

    def _take(self) -> _Job | None:
        """The next frame to work on, once the reader of the answers keeps up; ``None`` at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or (self._waiting and len(self._taken) < 2 * self._limit)
                    or (self._read_all and not self._waiting)
                )
            )
            if self._closed or not self._waiting:
                return None
            job = self._waiting.popleft()
            self._taken.append(job)
            self._changed.notify_all()
            return job
