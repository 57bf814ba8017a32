"""The processor of a simulated device, which its jobs share."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import simpy

_DONE_MS: Final = 1e-9


@dataclass(eq=False)
class _Job:
    left_ms: float
    done: simpy.Event


class Processor:
    """Runs so many jobs at once at full speed. More share it, each as fast as the others.

    Parameters:
        cores: jobs at full speed.
    """

    def __init__(self, env: simpy.Environment, cores: int = 1) -> None:
        self._env = env
        self._cores = cores
        self._jobs: list[_Job] = []
        self._changed_ms = 0.0
        self._change = 0

    def run(self, ms: float) -> simpy.Event:
        """Start a job that takes so long alone. The event comes when it is done."""
        self._work_off()
        job = _Job(ms, self._env.event())
        self._jobs.append(job)
        self._schedule()
        return job.done

    def stop(self, done: simpy.Event) -> None:
        """End the job of this event, which then never comes. Nothing happens if it has come."""
        self._work_off()
        self._jobs = [job for job in self._jobs if job.done is not done]
        self._schedule()

    @property
    def _speed(self) -> float:
        return min(1.0, self._cores / max(1, len(self._jobs)))

    def _work_off(self) -> None:
        worked_ms = (self._env.now - self._changed_ms) * self._speed
        self._changed_ms = self._env.now
        for job in self._jobs:
            job.left_ms -= worked_ms

    def _schedule(self) -> None:
        """Come back when the shortest job is done, unless something changes before."""
        self._change += 1
        if self._jobs:
            next_ms = max(0.0, min(job.left_ms for job in self._jobs)) / self._speed
            self._env.process(self._finish(next_ms, self._change))

    def _finish(self, ms: float, change: int) -> Generator[simpy.Event, Any, None]:
        yield self._env.timeout(ms)
        if change != self._change:
            return
        self._work_off()
        # The shortest is done, whatever is left of it: this is its time, up to the rounding of a
        # clock that may be coarser than _DONE_MS, so that no further timeout would move it.
        left_ms = max(_DONE_MS, min(job.left_ms for job in self._jobs))
        done = [job for job in self._jobs if job.left_ms <= left_ms]
        self._jobs = [job for job in self._jobs if job.left_ms > left_ms]
        for job in done:
            job.done.succeed()
        self._schedule()
