"""What a target is, and when a case breaks it."""

from __future__ import annotations

import json
import resource
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isplit_plugin.errors import IsplitError

CASES: Final = Path(__file__).parent / "cases"
"""Cases that once broke a target, one folder for each."""
CORPUS: Final = Path(__file__).parent / "corpus"
"""Cases that reach code which the seeds do not reach, one folder for each target."""

MAX_MESSAGE: Final = 20_000
"""The longest message of an error, in characters: none may repeat what a peer sent."""


class SlowCaseError(Exception):
    """A case took more processor time than its target allows."""


class BadErrorError(Exception):
    """A typed error that cannot be answered: too long, or not fit for JSON."""


@dataclass(frozen=True, slots=True)
class Target:
    """One reader of the product.

    Attributes:
        name: The target's name.
        summary: What it reads, in a few words.
        run: Reads one case. It may check more of what comes out.
        seeds: Cases that are valid, from the product's own writers.
        errors: What ``run`` may raise; everything else breaks the target.
        json_at: Where JSON begins in a case, for the mutator that knows JSON; ``None``: nowhere.
            The JSON ends at the first null byte, or at the end.
        max_bytes: The longest case to make.
        slow_s: The most processor time of one case, in seconds.
        memory_mb: The most memory of one case, in MB.
        words: Words of the format, for the mutators.
    """

    name: str
    summary: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    errors: tuple[type[Exception], ...]
    json_at: int | None = 0
    max_bytes: int = 8192
    slow_s: float = 1.0
    memory_mb: int = 256
    words: tuple[str, ...] = ()


def check(target: Target, case: bytes) -> None:
    """Run a case. Raises whatever breaks the target."""
    started = time.thread_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning about a strange photo is no failure
            target.run(case)
    except target.errors as error:
        _check_error(error)
    seconds = time.thread_time() - started
    if seconds > target.slow_s:
        raise SlowCaseError(f"{seconds:.2f} s of processor time, at most {target.slow_s:g}")


@contextmanager
def memory_limit(megabytes: int) -> Iterator[None]:
    """Within it, an allocation that takes the process ``megabytes`` further fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def resident_mb() -> float:
    """The memory that this process holds, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def kept_cases(target: Target) -> list[Path]:
    """The files of the target's corpus and of the cases that once broke it."""
    folders = [folder / target.name for folder in (CORPUS, CASES)]
    return sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir())


def _check_error(error: Exception) -> None:
    if not isinstance(error, IsplitError):
        return
    if len(error.message) > MAX_MESSAGE:
        raise BadErrorError(f"a message of {len(error.message)} characters") from error
    try:
        json.dumps(error.to_json(), allow_nan=False)
    except (TypeError, ValueError) as reason:
        raise BadErrorError(f"no JSON can carry this error: {reason}") from error
