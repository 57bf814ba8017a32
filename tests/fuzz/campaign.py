"""Fuzzes targets in processes of their own, and keeps what broke them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from .target import CASES, CORPUS, Target

_START_S: Final = 120
"""Seconds that a process may take besides those that it fuzzes: imports, seeds, its last case."""
MAX_CORPUS_FILES: Final = 20
MAX_CORPUS_BYTES: Final = 2048


@dataclass(frozen=True, slots=True)
class Crash:
    """A way in which a target broke. ``case``: the file with the shortest case for it."""

    failure: str
    message: str
    case: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What fuzzing one target showed.

    Attributes:
        target: Its name.
        seconds: How long its process ran.
        executions: Cases that were run.
        coverage: Places of the code (edges of the control flow) that some case reached.
        corpus: Cases that each reach a place of their own.
        slowest_ms: Processor time of the slowest case.
        growth_mb: Memory after the last case, less that after the first two thousand.
        crashes: The ways in which it broke.
    """

    target: str
    seconds: float
    executions: int
    coverage: int
    corpus: int
    slowest_ms: float
    growth_mb: float
    crashes: tuple[Crash, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fuzz(target: Target, seconds: int, *, keep_corpus: bool = False) -> Outcome:
    """Fuzz a target for some seconds, in a process of its own.

    New crashes become files in ``cases/TARGET``.

    Parameters:
        keep_corpus: Also write short cases that reach new places to ``corpus/TARGET``.
    """
    with tempfile.TemporaryDirectory(prefix="isplit-fuzz-") as folder:
        out = Path(folder)
        started = time.monotonic()
        ended, log = _run(target, seconds, out)
        if keep_corpus:
            _keep_corpus(target, out / "corpus")
        return _outcome(target, out, log, ended, time.monotonic() - started)


def _run(target: Target, seconds: int, out: Path) -> tuple[str, str]:
    """How the process ended (empty: as it should), and what it wrote."""
    command = [sys.executable, "-m", "fuzz.worker", target.name]
    command += ["--seconds", str(seconds), "--out", str(out)]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TMPDIR": str(out)}
    log_path = out / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            code = process.wait(seconds + _START_S)
            ended = "" if code == 0 else f"the process ended with {code}"
        except subprocess.TimeoutExpired:
            ended = f"the process did not end within {seconds + _START_S} s"
        finally:
            process.kill()
            process.wait()
    return ended, log_path.read_text(errors="replace")


def _outcome(target: Target, out: Path, log: str, ended: str, seconds: float) -> Outcome:
    state: dict[str, Any] = {"failures": []}
    if (out / "state.json").is_file():
        state = json.loads((out / "state.json").read_text())
    crashes = [
        Crash(f["failure"], f["message"], _keep_case(target, (out / f["file"]).read_bytes()))
        for f in state["failures"]
    ]
    # What ended the process is written by the fuzzer, as artifact-crash-..., -timeout-, -oom-.
    for artifact in sorted(out.glob("artifact-*")):
        kind = artifact.name.split("-")[1]
        crashes.append(Crash(kind, log[-2000:], _keep_case(target, artifact.read_bytes())))
    if ended and not crashes:
        crashes.append(Crash(ended, log[-2000:], ""))
    return Outcome(
        target=target.name,
        seconds=round(seconds, 1),
        executions=max(_last(log, r"^#(\d+)\s"), state.get("executions", 0)),
        coverage=_last(log, r"cov: (\d+)"),
        corpus=_last(log, r"corp: (\d+)"),
        slowest_ms=state.get("slowest_ms", 0.0),
        growth_mb=state.get("growth_mb", 0.0),
        crashes=tuple(crashes),
    )


def _last(log: str, pattern: str) -> int:
    numbers = re.findall(pattern, log, re.MULTILINE)
    return int(numbers[-1]) if numbers else 0


def _keep_case(target: Target, case: bytes) -> str:
    """The file of a case that broke the target, by its hash."""
    path = CASES / target.name / hashlib.sha256(case).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(case)
    return f"{path.parent.name}/{path.name}"


def _keep_corpus(target: Target, corpus: Path) -> None:
    """Fill the target's corpus with short cases, the newest first: they reach the farthest."""
    kept = CORPUS / target.name
    kept.mkdir(parents=True, exist_ok=True)
    seeds = {hashlib.sha256(seed).hexdigest() for seed in target.seeds()}
    room = MAX_CORPUS_FILES - len(list(kept.iterdir()))
    paths = sorted(corpus.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in paths:
        case = path.read_bytes()
        digest = hashlib.sha256(case).hexdigest()
        new = kept / digest[:12]
        if room <= 0:
            break
        if len(case) <= MAX_CORPUS_BYTES and digest not in seeds and not new.exists():
            new.write_bytes(case)
            room -= 1
