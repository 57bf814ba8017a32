"""A worker process: ``python -m toys.store_writer URL WORKER ROUNDS`` observes, flushes, and says how much is in the store.

Deterministic: worker w observes the same in every run, so that one process can compute what four must have written.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from isplit_plugin.schema import Observation
from isplit_plugin.traffic import Recorder
from toys.traffic import CLASSES, NETWORK, POINTS, manifest, observation, profile

BATCH = 20


def writer(url: str, worker: int, rounds: int) -> subprocess.Popen[str]:
    """Start such a process; each line of its output is the number of observations written by then."""
    command = [sys.executable, "-m", "toys.store_writer", url, str(worker), str(rounds)]
    folder = Path(__file__).parents[1]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)


def work(worker: int, rounds: int) -> Iterator[tuple[list[Observation], list[int], np.ndarray]]:
    """Each round's observations, and its curves with their classes."""
    for number in range(rounds):
        first = (worker * rounds + number) * BATCH
        random = np.random.default_rng(first)
        values = random.lognormal(size=(BATCH, POINTS))
        values[:, : number % 3] = np.nan
        labels = random.integers(0, CLASSES, BATCH).tolist()
        yield (
            [observation(first + i, at=1e9 + first % 2000 * 100 + i) for i in range(BATCH)],
            labels,
            values,
        )


def main(url: str, worker: int, rounds: int) -> None:
    recorder = Recorder(url, NETWORK, manifest=manifest(), profile=profile(), flush_s=3600)
    written = 0
    for observations, labels, values in work(worker, rounds):
        for one in observations:
            recorder.observe(one)
        source = "tail" if np.isnan(values[0, 0]) else "input"
        recorder.add_importance(labels, values, source, at=observations[0].at)
        while not recorder.flush():
            print(recorder.last_error, file=sys.stderr, flush=True)
        written += BATCH
        print(written, flush=True)
    recorder.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
