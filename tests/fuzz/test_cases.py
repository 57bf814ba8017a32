"""The seeds, the corpus and every case that once broke a target, without the fuzzer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fuzz.campaign import MAX_CORPUS_BYTES, MAX_CORPUS_FILES
from fuzz.mutators import mutate_case
from fuzz.target import (
    CASES,
    CORPUS,
    BadErrorError,
    SlowCaseError,
    Target,
    check,
    kept_cases,
    memory_limit,
)
from fuzz.targets import TARGETS
from isplit_plugin.errors import WireError

MB = 2**20


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_known_case_breaks_the_target(target: Target) -> None:
    # A busy machine must not fail the tests: here only a case that hangs is too slow.
    target = replace(target, slow_s=60.0)
    seeds = list(target.seeds())
    assert seeds
    cases = {f"seed {number}": case for number, case in enumerate(seeds)}
    cases |= {str(path): path.read_bytes() for path in kept_cases(target)}
    broken = []
    with memory_limit(target.memory_mb):
        for name, case in cases.items():
            try:
                check(target, case)
            except Exception as error:
                broken.append(f"{name}: {type(error).__name__}: {error}")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("folder", [CASES, CORPUS], ids=["cases", "corpus"])
def test_every_kept_case_belongs_to_a_target(folder: Path) -> None:
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    assert names <= set(TARGETS)


@pytest.mark.parametrize(
    "folder", sorted(path for path in CORPUS.iterdir() if path.is_dir()), ids=lambda path: path.name
)
def test_the_corpus_is_small(folder: Path) -> None:
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert len(sizes) <= MAX_CORPUS_FILES
    assert max(sizes, default=0) <= MAX_CORPUS_BYTES


# ------------------------------------------------------------------------ what breaks a target


def _raise(error: Exception) -> None:
    raise error


def _spin(seconds: float) -> None:
    import time

    started = time.thread_time()
    while time.thread_time() - started < seconds:
        pass


def _target(run: object, **limits: float) -> Target:
    return Target("t", "a test", run, lambda: [], (WireError,), **limits)  # type: ignore[arg-type]


def test_a_typed_error_is_right_and_any_other_breaks_the_target() -> None:
    check(_target(lambda case: _raise(WireError("refused"))), b"")
    with pytest.raises(KeyError):
        check(_target(lambda case: _raise(KeyError("shape"))), b"")


def test_an_error_that_repeats_megabytes_or_no_json_can_carry_breaks_the_target() -> None:
    with pytest.raises(BadErrorError, match="100000 characters"):
        check(_target(lambda case: _raise(WireError("x" * 100_000))), b"")
    with pytest.raises(BadErrorError, match="JSON"):
        check(_target(lambda case: _raise(WireError("no", value=float("nan")))), b"")


def test_a_slow_case_breaks_the_target() -> None:
    with pytest.raises(SlowCaseError):
        check(_target(lambda case: _spin(0.05), slow_s=0.01), b"")


def test_a_case_that_takes_too_much_memory_breaks_the_target() -> None:
    target = _target(lambda case: bytearray(400 * MB) and None, slow_s=60.0)
    check(target, b"")
    with memory_limit(200), pytest.raises(MemoryError):
        check(target, b"")


# ------------------------------------------------------------------------ mutations


def _no_bytes(case: bytes, max_size: int) -> bytes:
    return case


def test_most_mutations_of_json_are_json_with_what_is_around_it() -> None:
    tree = {"inputs": [{"name": "activation", "shape": [1, 3], "nested": {"a": None}}]}
    case = b"\0" + json.dumps(tree).encode() + b"\0tensor"
    results = [
        mutate_case(case, 5000, seed, at=1, words=("pool",), mutate=_no_bytes)
        for seed in range(500)
    ]
    changed = {result for result in results if result != case}
    assert len(changed) > 200
    for result in changed:
        assert result[:1] == b"\0"
        json.loads(result[1 : result.index(b"\0", 1)])
        assert result.endswith(b"\0tensor")
    assert any(b'"pool"' in result for result in changed)
    assert mutate_case(case, 5000, 7, at=1, words=(), mutate=_no_bytes) == mutate_case(
        case, 5000, 7, at=1, words=(), mutate=_no_bytes
    )


def test_what_is_no_json_or_would_be_too_long_is_mutated_as_bytes() -> None:
    for seed in range(50):
        assert mutate_case(b"{", 10, seed, at=0, words=(), mutate=_no_bytes) == b"{"
        result = mutate_case(b'{"a": 1}', 8, seed, at=0, words=(), mutate=_no_bytes)
        assert len(result) <= 8
