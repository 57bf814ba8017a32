"""A worker process: ``python -m toys.store_writer URL WORKER ROUNDS`` observes and flushes.

It prints how many observations it has written. A worker observes the same in every run, so that one
process can compute what four must have written.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from isplit_plugin.schema import Observation
from isplit_plugin.traffic import ImportanceSample, Recorder
from toys.traffic import CLASSES, NETWORK, POINTS, manifest, observation, profile, samples

BATCH = 20


def writer(url: str, worker: int, rounds: int) -> subprocess.Popen[str]:
    """Start a worker; each line of its output is the number of observations written so far."""
    command = [sys.executable, "-m", "toys.store_writer", url, str(worker), str(rounds)]
    folder = Path(__file__).parents[1]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)


def work(
    worker: int, rounds: int, group: str = "all"
) -> Iterator[tuple[list[Observation], list[ImportanceSample]]]:
    """The observations and the importance samples of each round."""
    for number in range(rounds):
        first = (worker * rounds + number) * BATCH
        random = np.random.default_rng(first)
        values = random.lognormal(size=(BATCH, POINTS))
        values[:, : number % 3] = np.nan
        labels = random.integers(0, CLASSES, BATCH).tolist()
        at = 1e9 + first % 2000 * 100
        observations = [observation(first + i, at=at + i) for i in range(BATCH)]
        yield observations, samples(labels, values, group=group, at=at)


def main(url: str, worker: int, rounds: int) -> None:
    recorder = Recorder(url, NETWORK, manifest=manifest(), profile=profile(), flush_s=3600)
    written = 0
    for observations, curves in work(worker, rounds):
        for seen in observations:
            recorder.observe(seen)
        for sample in curves:
            recorder.add_importance(sample)
        while not recorder.flush():
            print(recorder.last_error, file=sys.stderr, flush=True)
        written += BATCH
        print(written, flush=True)
    recorder.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
