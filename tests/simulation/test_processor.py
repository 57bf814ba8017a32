"""The processor of a device: jobs share it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import simpy

from isplit_plugin.simulation.processor import Processor


def finished(cores: int, *jobs: tuple[float, float]) -> list[float]:
    """When jobs are done that start at some time and take some time alone."""
    env = simpy.Environment()
    processor = Processor(env, cores)
    ends: dict[int, float] = {}

    def job(number: int, at_ms: float, ms: float) -> Generator[simpy.Event, Any, None]:
        yield env.timeout(at_ms)
        yield processor.run(ms)
        ends[number] = env.now

    for number, (at_ms, ms) in enumerate(jobs):
        env.process(job(number, at_ms, ms))
    env.run()
    return [round(ends[number], 6) for number in range(len(jobs))]


def test_jobs_share_a_core() -> None:
    assert finished(1, (0, 10)) == [10]
    assert finished(1, (0, 10), (0, 10)) == [20, 20]
    # 5 ms alone, then half as fast: the short one is done at 5 + 4, the long one 7 ms later.
    assert finished(1, (0, 14), (5, 2)) == [16, 9]
    assert finished(1, (0, 10), (30, 10)) == [10, 40]


def test_a_job_that_is_stopped_leaves_the_others_the_core() -> None:
    env = simpy.Environment()
    processor = Processor(env)
    vain, wanted = processor.run(100.0), processor.run(10.0)

    def stop() -> Generator[simpy.Event, Any, None]:
        yield env.timeout(4)
        processor.stop(vain)
        yield wanted
        assert env.now == pytest.approx(12)  # 2 of its 10 ms in the first 4
        processor.stop(wanted)

    env.process(stop())
    env.run()
    assert not vain.triggered
    assert wanted.triggered


def test_more_cores_run_more_jobs_at_full_speed() -> None:
    assert finished(2, (0, 10), (0, 10)) == [10, 10]
    assert finished(2, (0, 10), (0, 10), (0, 10)) == [15, 15, 15]


@pytest.mark.parametrize("cores", [1, 3])
def test_a_job_of_no_time_is_done_at_once(cores: int) -> None:
    assert finished(cores, (2, 0), (0, 5)) == [2, 5]


@pytest.mark.parametrize("start_ms", [3e7, 3e9, 3e12])
def test_jobs_end_late_in_a_long_simulation(start_ms: float) -> None:
    """There one step of the clock's float is longer than what rounding leaves of a job."""
    env = simpy.Environment(start_ms)
    processor = Processor(env)
    jobs = []

    def start() -> Generator[simpy.Event, Any, None]:
        for _ in range(50):
            jobs.append(processor.run(1 / 3))
            yield env.timeout(0.1)

    env.process(start())
    for _ in range(2_000):
        if env.peek() == float("inf"):
            break
        env.step()
    assert len(jobs) == 50
    assert all(job.triggered for job in jobs)
    assert env.now == pytest.approx(start_ms + 50 / 3, abs=10)
