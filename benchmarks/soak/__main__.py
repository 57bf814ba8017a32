"""Load on a real TorchServe with two versions of a model on PostgreSQL, while workers are killed
and stopped, the database restarts and clocks go wrong.

Prints figures and bounds, and ends with 1 where a bound is broken. Memory counts from the end of
the warm-up, 40 % of the time, and is judged by a robust trend over ten minutes or more: twenty
minutes of load at least. What the confidence interval leaves open is "too short to judge", and
breaks no bound.
Ctrl-C ends the load early; the report is then about the time until there. Everything that was
started ends with the soak.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from isplit_plugin.device_tokens import new_secret, read_secret
from isplit_plugin.serving.launcher import TorchServe
from isplit_plugin.terminal import table
from isplit_plugin.traffic import Store

from .clock import Clocks
from .database import database
from .faults import Fault, Faults
from .load import Load
from .models import NAME, WORKERS, Version, build
from .verdict import MAX_SLOPE, Memory, ProcessFigures, Row, prediction_rows, process_figures
from .watch import Watch

WARM_UP: float = 0.4
"""Share of the time after which memory counts."""
SETTLE_S: float = 10.0
"""Seconds of load after the last fault."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make soak ARGS='...'",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, metavar="M", help="of load (default: 10)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="machine-readable result")
    options = parser.parse_args()
    if not 1 <= options.minutes <= 100_000:
        parser.error(f"--minutes: expected 1 or more, got {options.minutes:g}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    result = soak(60 * options.minutes)
    print(_report(result["rows"], result["processes"]))
    broken = [row.name for row in result["rows"] if not row.ok]
    print(f"\nbroken: {', '.join(broken)}" if broken else "\nall bounds hold")
    if options.json is not None:
        options.json.write_text(json.dumps(_to_json(result), indent=1) + "\n")
    return int(bool(broken))


def soak(seconds: float) -> dict[str, Any]:
    """Run it. Returns rows, processes and faults."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="isplit-soak-")))
        _say("packaging two versions of a small network")
        model_store = folder / "model_store"
        model_store.mkdir()
        versions = build(model_store)
        _say("starting PostgreSQL and TorchServe")
        postgres = stack.enter_context(database())
        clocks = Clocks(folder)
        secret = new_secret(folder / "labels.secret")
        server = stack.enter_context(
            TorchServe(
                model_store=model_store,
                models=[*(version.archive for version in versions), "isplit.mar"],
                store=postgres.url,
                environment={"ISPLIT_LABEL_SECRET_FILE": str(secret), **clocks.environment()},
            )
        )
        store = stack.enter_context(Store(postgres.url))
        for version in versions:
            _wait_for_workers(server, version.number)
        load = Load(server, versions, read_secret(secret).decode())

        def log(fault: Fault) -> None:
            _say(f"{_line(fault)}; {load.total} predictions, {len(load.failed)} failed")

        faults = Faults(server, postgres, clocks, versions, log, load.check)
        return _loaded(server, store, load, faults, seconds)


def _loaded(
    server: TorchServe, store: Store, load: Load, faults: Faults, seconds: float
) -> dict[str, Any]:
    """Load with faults for some seconds, and what came of it."""
    processes = {
        **{f"worker of {number}": pid for number, pid in faults.steady.items()},
        "worker of the endpoint": server.status("isplit").pids[0],
    }
    watch = Watch(processes)
    started = time.monotonic()
    _say(f"load for {seconds / 60:g} minutes")
    with watch.running(), load.running():
        try:
            faults.run(seconds - SETTLE_S)
            time.sleep(max(0.0, started + seconds - time.monotonic()))
        except KeyboardInterrupt:
            seconds = time.monotonic() - started
            _say(f"interrupted after {seconds / 60:.1f} minutes of load")
    _ignore_signals()
    _say("load is over; waiting for what the workers still write")
    _wait_for_flush(store, load.versions)
    store.check()
    figures = [
        process_figures(name, samples, started + WARM_UP * seconds)
        for name, samples in watch.samples.items()
    ]
    for failure in [*load.failed, *load.unanswered][:40]:
        _say(f"{failure.at - started:.1f} s: {failure.what}: {failure.error}")
    for line in _server_warnings(server.log_path):
        _say(line)
    return {
        "minutes": round(seconds / 60, 2),
        "rows": [*prediction_rows(load, faults.made, store), *_process_rows(figures)],
        "processes": figures,
        "faults": faults.made,
        "started": started,
    }


def _server_warnings(log: Path) -> list[str]:
    """The different warnings and errors of our own in the server's log, with their number."""
    lines = Counter(
        re.sub(r"\d+", "0", line.partition("isplit: ")[2])[:300]
        for line in log.read_text(errors="replace").splitlines()
        if "isplit: " in line and not line.startswith("[METRICS]")
    )
    return [f"server's log, {count} times: {line}" for line, count in lines.most_common(20)]


def _wait_for_workers(server: TorchServe, version: str) -> None:
    deadline = time.monotonic() + 120
    while server.status(NAME, version=version).workers.count("READY") < WORKERS:
        if time.monotonic() > deadline:
            raise TimeoutError(f"version {version} has fewer than {WORKERS} workers")
        time.sleep(0.2)


def _wait_for_flush(store: Store, versions: list[Version]) -> None:
    """Until no prediction was counted for four seconds, that is for some flushes.

    The importance of sampled requests may still be on its way: it has all the time it needs.
    """
    counted: tuple[int, ...] = ()
    deadline, since = time.monotonic() + 30, time.monotonic()
    while time.monotonic() < min(deadline, since + 4):
        now = tuple(store.view(v.manifest.network_hash).observations for v in versions)
        if now != counted:
            counted, since = now, time.monotonic()
        time.sleep(0.5)


def _process_rows(figures: list[ProcessFigures]) -> list[Row]:
    rows = []
    for one in figures:
        trend, low, high = one.slope
        rows.append(
            Row(
                f"memory of the {one.process}, MB an hour",
                f"{trend:+.1f} ({low:+.1f} to {high:+.1f}), {one.memory}",
                f"< {MAX_SLOPE:g}",
                one.memory is not Memory.GROWS,
            )
        )
        fewest, most = one.descriptors
        rows.append(
            Row(
                f"descriptors of the {one.process}",
                f"{fewest} to {most}",
                "constant",
                not one.descriptors_grow,
            )
        )
    return rows


def _report(rows: list[Row], figures: list[ProcessFigures]) -> str:
    heads = ("process after the warm-up", "samples", "MB", "to", "anonymous MB", "to")
    verdicts = [(row.name, row.value, row.bound, "" if row.ok else "BROKEN") for row in rows]
    memory = [
        (one.process, one.samples, *map(str, (*one.rss_mb, *one.anonymous_mb))) for one in figures
    ]
    return "\n\n".join(
        [
            table(("what", "value", "bound", ""), verdicts),
            table(heads, memory),
        ]
    )


def _to_json(result: dict[str, Any]) -> dict[str, Any]:
    started = result["started"]
    return {
        "minutes": result["minutes"],
        "ok": all(row.ok for row in result["rows"]),
        "rows": [asdict(row) for row in result["rows"]],
        "processes": [one.to_json() for one in result["processes"]],
        "faults": [
            {
                "kind": f.kind,
                "at_s": round(f.at - started, 2),
                "until_s": round(f.until - started, 2),
            }
            for f in result["faults"]
        ],
    }


def _line(fault: Fault) -> str:
    whose = f" of process {fault.pid}" if fault.pid else ""
    return f"{fault.kind}{whose}, over after {fault.until - fault.at:.1f} s"


def _interrupt(number: int, frame: object) -> None:
    """The first signal ends the load."""
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    """From here on the soak ends by itself, soon: nothing measured is lost, nothing stays behind."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
