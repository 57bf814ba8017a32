"""``isplit store``: check, repair, export and compact the store, list and forget versions."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ..errors import StoreError
from ..files import write_atomically
from ..terminal import kilobytes, table
from . import common, store_versions

if TYPE_CHECKING:
    from ..traffic import Store

HELP: Final = "check, repair, export or compact the store, list or forget versions"
DESCRIPTION: Final = """\
Maintain the store, to which the workers write the statistics of live traffic:
  check    read everything; print schema, size and number of rows. Exit code 5
           if it is damaged, or if times in it lie in the future
  repair   bring times in the future, which a host with a wrong clock wrote,
           back to now; they would outweigh all traffic until then
  export   write everything as JSON lines, one row per line
  compact  roll up old counts and free unused space
  models   list the versions of all models, and when each last answered a request
  forget   delete a version of a model, with the statistics of its network
Help for one of them: isplit store ACTION --help
"""
EPILOG: Final = """\
examples:
  isplit store check --store sqlite:////var/lib/isplit/store.sqlite3
  isplit store check --store sqlite:///isplit-run/store.db   # of isplit serve
  isplit store export --store postgresql+psycopg://isplit@db.example/isplit
  isplit store repair
  isplit store compact
  isplit store models
  isplit store forget resnet50 --version 1.0 --dry-run
The servers may keep running. Without --store the command takes ISPLIT_STORE, or
else the default of a worker: ~/.local/state/isplit/isplit-store.sqlite3.
"""

_ACTIONS: Final = {
    "check": "read everything; print schema, size and number of rows",
    "repair": "bring times in the future back to now",
    "export": "write everything as JSON lines, one row per line",
    "compact": "roll up old counts and free unused space",
    "models": "list the versions of all models, and when each last answered a request",
    "forget": "delete a version of a model, with the statistics of its network",
}


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    parsers = {
        name: actions.add_parser(
            name,
            help=text,
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for name, text in _ACTIONS.items()
    }
    for name, action in parsers.items():
        action.add_argument(
            "--store", metavar="URL", help="sqlite:////absolute/path or postgresql+psycopg://..."
        )
        if name != "export":
            action.add_argument("--json", action="store_true", help="print the result as JSON")
    parsers["export"].add_argument(
        "--output", type=Path, metavar="FILE", help="write here, not to stdout"
    )
    store_versions.configure_forget(parsers["forget"])


def run(options: argparse.Namespace) -> int:
    from ..serving.settings import store_url
    from ..traffic import Store

    with Store(options.store or store_url(), create=False, busy_timeout_s=30.0) as store:
        if options.action == "export":
            _export(store, options.output)
        elif options.action == "check":
            report = _check(store)
            _print(report, as_json=options.json)
            if not report["sound"]:
                _refuse(report["ahead_s"])
        elif options.action == "repair":
            _repair(store, as_json=options.json)
        elif options.action == "models":
            store_versions.show_models(store, options)
        elif options.action == "forget":
            return store_versions.forget(store, options)
        else:
            before, after = store.compact()
            report = {"store": store.url, "bytes_before": before, "bytes": after}
            _print(report, as_json=options.json)
    return 0


def _check(store: Store) -> dict[str, Any]:
    rows = store.check()
    networks = store.networks()
    ahead_s = store.future()
    return {
        "store": store.url,
        "sound": not ahead_s,
        "schema": store.schema,
        "revision": store.revision(),
        "half_life_s": store.half_life_s,
        "bytes": store.size(),
        "rows": {name.removeprefix("isplit_"): count for name, count in rows.items()},
        "networks": [network._asdict() for network in networks],
        "ahead_s": ahead_s,
    }


def _refuse(ahead_s: Mapping[str, float]) -> NoReturn:
    """Raise StoreError for networks with times in the future."""
    network, seconds = max(ahead_s.items(), key=lambda item: item[1])
    more = f" (and {len(ahead_s) - 1} more)" if len(ahead_s) > 1 else ""
    raise StoreError(
        f"network {network[:20]}{more}: expected no time in the future, "
        f"got one {_duration(seconds)} ahead; "
        "set the clock of the host right, then run: isplit store repair"
    )


def _repair(store: Store, *, as_json: bool) -> None:
    ahead_s = store.repair()
    if as_json:
        common.emit_json({"store": store.url, "repaired": ahead_s})
        return
    for network, seconds in ahead_s.items():
        print(f"repaired network {network[:20]}: its times were {_duration(seconds)} ahead")
    if not ahead_s:
        print("nothing to repair: no time lies in the future")


def _duration(seconds: float) -> str:
    return f"{seconds / 86_400:.1f} days" if seconds >= 86_400 else f"{seconds:.0f} s"


def _print(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        common.emit_json(report)
        return
    for name, value in report.items():
        if name == "rows":
            print("\n" + table(("table", "rows"), value.items()))
        elif name == "networks":
            print("\n" + store_versions.version_table(value))
        elif name != "ahead_s":
            print(f"{name:<14}{kilobytes(value) if name.startswith('bytes') else value}")


def _export(store: Store, output: Path | None) -> None:
    if output is None:
        for row in store.export():
            sys.stdout.write(_line(row))
        return

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(_line(row) for row in store.export())

    try:
        write_atomically(output, write)
    except OSError as error:
        raise StoreError(
            f"{output}: expected a file that can be written, got {type(error).__name__}: {error}"
        ) from error


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n"
