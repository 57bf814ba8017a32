"""One target, fuzzed in this process by atheris until its time is over: ``python -m fuzz.worker``.

atheris ends the process itself, so what was seen is written to a file as it comes. The same failure
(type and place) is kept once, by its shortest case.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import operator
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Final

import atheris
import numpy as np

with atheris.instrument_imports(include=["isplit_plugin", "PIL"]):
    import PIL.Image

    PIL.Image.init()
    from .mutators import mutate_case
    from .server_targets import Unexpected
    from .target import Target, check, kept_cases, memory_limit, resident_mb
    from .targets import TARGETS

WARM_UP: Final = 2_000
"""Cases after which memory must not grow any more."""
GROWTH_MB: Final = 150
"""How much it may grow nevertheless: the fuzzer's own tables do."""
HANG_S: Final = 20
"""Seconds of wall-clock time after which a case counts as hanging. The machine may be shared."""
_EVERY: Final = 500


_COMPARISONS: Final = (
    operator.lt,
    operator.le,
    operator.eq,
    operator.ne,
    operator.gt,
    operator.ge,
)


def keep_no_arrays() -> None:
    """Make atheris compare arrays without tracing: it keeps the memory of each comparison's result.

    Call it when atheris is running, for it puts its own functions in place at the start.
    """
    trace = atheris._trace_cmp

    def compare(left: Any, right: Any, number: int, *more: Any) -> Any:
        if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
            return _COMPARISONS[number](left, right)
        return trace(left, right, number, *more)

    atheris._trace_cmp = compare


class MemoryGrowthError(Exception):
    """The process holds more and more memory."""


class Watch:
    """Runs cases and writes down which broke the target."""

    def __init__(self, target: Target, out: Path) -> None:
        self._target = target
        self._out = out
        self._executions = 0
        self._slowest_s = 0.0
        self._warm_mb = 0.0
        self._mb = 0.0
        self._failures: dict[str, dict[str, Any]] = {}

    def __call__(self, case: bytes) -> None:
        if not self._executions:
            keep_no_arrays()
        started = time.thread_time()
        try:
            check(self._target, case)
        except Exception as error:
            self._keep(case, error)
        self._slowest_s = max(self._slowest_s, time.thread_time() - started)
        self._executions += 1
        if self._executions == WARM_UP:
            self._warm_mb = resident_mb()
        if self._executions % _EVERY == 0:
            self._check_memory(case)
            self.write()

    def write(self) -> None:
        """Write down what was seen so far."""
        state = {
            "executions": self._executions,
            "slowest_ms": round(1e3 * self._slowest_s, 1),
            "memory_mb": round(self._mb, 1),
            "growth_mb": round(self._mb - self._warm_mb, 1) if self._warm_mb else 0.0,
            "failures": list(self._failures.values()),
        }
        (self._out / "state.json").write_text(json.dumps(state))

    def _check_memory(self, case: bytes) -> None:
        self._mb = resident_mb()
        if self._warm_mb and self._mb - self._warm_mb > GROWTH_MB:
            self._keep(case, MemoryGrowthError(f"{self._mb:.0f} MB after {self._warm_mb:.0f} MB"))
            self._warm_mb = self._mb

    def _keep(self, case: bytes, error: Exception) -> None:
        failure = _name(error)
        former = self._failures.get(failure)
        if former is not None and former["size"] <= len(case):
            return
        name = hashlib.sha256(failure.encode()).hexdigest()[:12]
        (self._out / name).write_bytes(case)
        self._failures[failure] = {
            "failure": failure,
            "message": str(error)[:300],
            "file": name,
            "size": len(case),
        }
        self.write()


def _name(error: BaseException) -> str:
    """What the same failure has in common: the type, and file and line in the product."""
    if isinstance(error, Unexpected):  # the endpoint has logged them
        return ":".join(str(error).split(":")[1:3]).strip()
    frames = traceback.extract_tb(error.__traceback__)
    product = [frame for frame in frames if "isplit_plugin" in frame.filename]
    frame = (product or frames)[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz.worker", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # errors are still seen: the endpoint's target reads them
    target = TARGETS[options.target]
    corpus = options.out / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number:03d}").write_bytes(seed)
    for path in kept_cases(target):
        (corpus / path.name).write_bytes(path.read_bytes())
    words = options.out / "words"
    words.write_text("".join(f'"{word}"\n' for word in target.words))
    watch = Watch(target, options.out)
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={options.seconds}",
        f"-max_len={target.max_bytes}",
        f"-timeout={HANG_S}",
        *([f"-dict={words}"] if target.words else []),
        f"-artifact_prefix={options.out}/artifact-",
        "-rss_limit_mb=0",  # memory is limited case by case
        "-print_final_stats=1",
    ]
    mutator = {}
    if target.json_at is not None:
        mutator["custom_mutator"] = _mutator(target, target.json_at)
    atheris.Setup(arguments, watch, **mutator)
    with memory_limit(target.memory_mb):
        atheris.Fuzz()


def _mutator(target: Target, at: int) -> Any:
    def mutate(case: bytes, max_size: int, seed: int) -> bytes:
        return mutate_case(case, max_size, seed, at=at, words=target.words, mutate=atheris.Mutate)

    return mutate


if __name__ == "__main__":
    main()
