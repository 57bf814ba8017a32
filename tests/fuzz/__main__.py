"""Fuzz the readers of everything that comes from others, each for some seconds.

Prints one line for each target, and ends with 1 where a case broke one. Such a case is kept in
tests/fuzz/cases: from then on `make test` replays it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path

from isplit_plugin.terminal import table

from .campaign import Outcome, fuzz
from .targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make fuzz ARGS='...'",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = "\n".join(f"  {target.name:<16}{target.summary}" for target in TARGETS.values())
    parser.epilog = f"targets:\n{names}"
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="by default all of them")
    parser.add_argument(
        "--seconds", type=int, default=20, metavar="N", help="for each target (default: 20)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="machine-readable result")
    parser.add_argument(
        "--keep-corpus",
        action="store_true",
        help="add short cases that reach new code to tests/fuzz/corpus",
    )
    options = parser.parse_args()
    if unknown := sorted(set(options.targets) - set(TARGETS)):
        parser.error(f"unknown target {unknown[0]!r}; known: {', '.join(TARGETS)}")
    if options.seconds < 1:
        parser.error(f"--seconds: expected at least 1, got {options.seconds}")
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed: pip install -c constraints.txt -e '.[fuzz]'")
    outcomes = []
    for name in options.targets or TARGETS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        outcomes.append(fuzz(TARGETS[name], options.seconds, keep_corpus=options.keep_corpus))
    print(_table(outcomes))
    for outcome in outcomes:
        for crash in outcome.crashes:
            print(f"\n{outcome.target}: {crash.failure}\n  {crash.message}")
            print(f"  case: tests/fuzz/cases/{crash.case}" if crash.case else "  no case")
    if options.json is not None:
        result = {"seconds": options.seconds, "targets": [one.to_json() for one in outcomes]}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(any(outcome.crashes for outcome in outcomes))


def _table(outcomes: list[Outcome]) -> str:
    rows: list[tuple[object, ...]] = [
        (
            one.target,
            one.executions,
            one.coverage,
            one.corpus,
            round(one.slowest_ms),
            round(one.growth_mb),
            len(one.crashes),
        )
        for one in outcomes
    ]
    crashes = sum(len(one.crashes) for one in outcomes)
    executions = sum(one.executions for one in outcomes)
    rows.append(("all", executions, None, None, None, None, crashes))
    heads = ("target", "executions", "coverage", "corpus", "slowest ms", "growth MB", "crashes")
    return table(heads, rows)


if __name__ == "__main__":
    sys.exit(main())
