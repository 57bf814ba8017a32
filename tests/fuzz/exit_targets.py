"""Targets: exits, their sums, releases and statements."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
import safetensors.numpy

from isplit_plugin.client.exit_marks import Mark, read_marks
from isplit_plugin.errors import ArtifactError, ExitError, StoreError, WireError
from isplit_plugin.exits import (
    ClassRelease,
    Exit,
    ExitRelease,
    ExitStatement,
    ExitSums,
    fit_exit,
    public_key_of,
    read_signed,
    sign,
)
from isplit_plugin.hashed_arrays import digest
from isplit_plugin.schema import Cut
from isplit_plugin.traffic import ExitClass, ExitState
from isplit_plugin.wire import load_json

from .target import Target

_KEY: Final = bytes(range(32))
_FEATURES: Final = 4


def _sums() -> ExitSums:
    bounds = np.full(_FEATURES, 9.0)
    sums = ExitSums.empty("a" * 64, Cut("layer2", "uint8+zstd"), -bounds, bounds, pooling="grid")
    rng = np.random.default_rng(0)
    ids = np.repeat([0, 3, 7], 40)
    sums.add(rng.normal(size=(120, _FEATURES)) + ids[:, None] / 3, ids)
    return sums


_SUMS: Final = _sums()
_EXIT: Final = fit_exit(_SUMS, created=1000.0)
_RELEASE: Final = ExitRelease(
    "a" * 64, _EXIT.cut, _EXIT.version, 2, 1000.0, 2000.0, 0.01, {3: ClassRelease(5, 0.25)}
)


def _with_header(whole: bytes, header: Mapping[str, Any]) -> bytes:
    """The bytes with another header, the same arrays, and the right SHA-256."""
    arrays = safetensors.numpy.load(whole)
    kind = _metadata(whole)[0]
    try:
        sha256 = digest(header, arrays)
    except ValueError:  # 1e999, which the reader refuses too
        sha256 = ""
    signed = json.dumps({"content": header, "sha256": sha256})
    return bytes(safetensors.numpy.save(arrays, metadata={kind: signed}))


def _metadata(whole: bytes) -> tuple[str, dict[str, Any]]:
    length = int.from_bytes(whole[:8], "little")
    [(kind, signed)] = json.loads(whole[8 : 8 + length])["__metadata__"].items()
    return kind, json.loads(signed)["content"]


def _arrays(whole: bytes, read: Callable[[bytes], object], case: bytes) -> None:
    """A case is a flag and then, with an even flag, the JSON of the header, else all bytes."""
    if not case or case[0] % 2:
        read(case[1:])
        return
    header = load_json(case[1:])
    if isinstance(header, dict):
        read(_with_header(whole, header))


def _arrays_seeds(whole: bytes) -> Iterator[bytes]:
    yield b"\0" + json.dumps(_metadata(whole)[1]).encode()
    yield b"\1" + whole


def _exit(data: bytes) -> None:
    exit_ = Exit.from_bytes(data)
    answer = exit_.answer(np.zeros(exit_.features))
    assert answer.class_id in {-1, *exit_.classes}
    exit_.check(exit_.network_hash, 1000, 0.0)


def _read_sums(data: bytes) -> None:
    sums = ExitSums.from_bytes(data)
    fit_exit(sums.at_epoch(sums.epoch + 1), min_weight=2, created=0.0)


def _statement(case: bytes) -> None:
    statement = ExitStatement.parse(case.decode("utf-8", "replace"))
    assert ExitStatement.parse(str(statement))[1:] == statement[1:]


def _read_signed(case: bytes) -> None:
    read_signed(case, public_key_of(_KEY))


def _release(case: bytes) -> None:
    ExitRelease.from_bytes(case).allows(3, 5, 1500.0)


def _marks(case: bytes) -> None:
    for mark in read_marks(case, "feed").values():
        mark.is_newer_than(Mark(_RELEASE.version, _RELEASE.number, _RELEASE.issued))


def _state(case: bytes) -> None:
    state = ExitState.from_json(case.decode("utf-8", "replace"))
    assert ExitState.from_json(state.to_json()) == state
    state.released()


_MARKS: Final = json.dumps(
    {
        "isplit_exit_marks": 1,
        "network_hash": "feed",
        "cuts": {"layer2:uint8": ["a" * 64, 3, 1000.0]},
    }
).encode()
_STATE: Final = ExitState(2, 0.01, {3: ExitClass(bin=5, since=1000.0), 7: ExitClass()})
_EXIT_BYTES: Final = _EXIT.to_bytes()
_SUMS_BYTES: Final = _SUMS.to_bytes()

EXIT_TARGETS: Final = (
    Target(
        "exit",
        "an exit, and its answer",
        partial(_arrays, _EXIT_BYTES, _exit),
        partial(_arrays_seeds, _EXIT_BYTES),
        (ExitError, WireError),
        json_at=1,
        words=("network_hash", "cut", "pooling", "created", "expires", "format"),
    ),
    Target(
        "exit_sums",
        "sums, and the exit fitted from them",
        partial(_arrays, _SUMS_BYTES, _read_sums),
        partial(_arrays_seeds, _SUMS_BYTES),
        (ExitError, WireError),
        json_at=1,
        words=("network_hash", "cut", "pooling", "epoch", "format"),
    ),
    Target(
        "signed_exit",
        "a signed exit",
        _read_signed,
        lambda: [sign(_EXIT_BYTES, _KEY)],
        (ExitError,),
        json_at=None,
    ),
    Target(
        "exit_release",
        "a release of an exit",
        _release,
        lambda: [_RELEASE.to_bytes()],
        (ExitError,),
        words=("version", "number", "issued", "expires", "classes"),
    ),
    Target(
        "exit_marks",
        "the newest releases that a device keeps in a file",
        _marks,
        lambda: [_MARKS],
        (ArtifactError,),
        words=("isplit_exit_marks", "network_hash", "cuts"),
    ),
    Target(
        "exit_state",
        "the state of an exit version in the store",
        _state,
        lambda: [_STATE.to_json().encode()],
        (StoreError,),
        words=("version", "tolerance", "classes", "group", "audits", "detector"),
    ),
    Target(
        "exit_statement",
        "what a request says of an exit",
        _statement,
        lambda: [str(ExitStatement(_EXIT.version, 3, 5, audit=True)).encode()],
        (WireError,),
        json_at=None,
    ),
)
