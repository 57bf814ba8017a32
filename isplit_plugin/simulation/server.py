"""The server of a simulation: a queue of requests, and workers that take them in batches."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

from .scenario import Scenario

if TYPE_CHECKING:
    import simpy


class _Job(NamedTuple):
    """A request in line."""

    server_ms: float
    done: simpy.Event


class Server:
    """Workers that share one queue, as TorchServe's do.

    A worker takes the first request, then waits for others until its batch is full or the batch's
    delay is over, and runs them together. The slowest request of a batch takes its time, each other
    one ``scenario.batch_cost`` of its own.

    Attributes:
        busy_ms: time that the workers have worked.
    """

    def __init__(self, env: simpy.Environment, scenario: Scenario) -> None:
        import simpy

        self._env = env
        self._scenario = scenario
        self._jobs: simpy.Store = simpy.Store(env)
        self.busy_ms = 0.0
        for _ in range(scenario.workers):
            env.process(self._work())

    def serve(self, server_ms: float) -> simpy.Event:
        """Put a request in line. The event comes when it is answered."""
        job = _Job(server_ms, self._env.event())
        self._jobs.put(job)
        return job.done

    def _work(self) -> Generator[simpy.Event, Any, None]:
        while True:
            batch: list[_Job] = [(yield self._jobs.get())]
            yield from self._fill(batch)
            times = [job.server_ms for job in batch]
            together_ms = max(times) + self._scenario.batch_cost * (sum(times) - max(times))
            yield self._env.timeout(together_ms)
            self.busy_ms += together_ms
            for job in batch:
                job.done.succeed()

    def _fill(self, batch: list[_Job]) -> Generator[simpy.Event, Any, None]:
        ends_ms = self._env.now + self._scenario.batch_delay_ms
        while len(batch) < self._scenario.batch_size:
            following = self._jobs.get()
            if not following.triggered:
                yield following | self._env.timeout(max(0.0, ends_ms - self._env.now))
            if not following.triggered:
                following.cancel()
                return
            batch.append((yield following))
