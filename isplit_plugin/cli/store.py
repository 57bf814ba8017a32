"""``isplit store``: check, export and compact the store."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import StoreError
from ..files import write_atomically
from ..terminal import kilobytes, table, utc_time
from . import common

if TYPE_CHECKING:
    from ..traffic import Store

HELP: Final = "check, export or compact the store"
DESCRIPTION: Final = """\
Maintain the store, to which the workers write the statistics of live traffic:
  check    read everything; print schema, size and number of rows
  export   write everything as JSON lines, one row per line
  compact  roll up old counts and free unused space
"""
EPILOG: Final = """\
examples:
  isplit store check --store sqlite:////var/lib/isplit/store.sqlite3
  isplit store check --store sqlite:///isplit-run/store.db   # of isplit serve
  isplit store export --store postgresql+psycopg://isplit@db.example/isplit
  isplit store compact
The servers may keep running. Without --store the command takes ISPLIT_STORE, or
else the default of a worker: ~/.local/state/isplit/isplit-store.sqlite3.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("check", "export", "compact"), help="see above")
    parser.add_argument(
        "--store", metavar="URL", help="sqlite:////absolute/path or postgresql+psycopg://..."
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="for export: write here, not to stdout"
    )
    parser.add_argument(
        "--json", action="store_true", help="for check and compact: print the result as JSON"
    )


def run(options: argparse.Namespace) -> int:
    from ..serving.settings import store_url
    from ..traffic import Store

    with Store(options.store or store_url(), create=False, busy_timeout_s=30.0) as store:
        if options.action == "export":
            _export(store, options.output)
        elif options.action == "check":
            _print(_check(store), as_json=options.json)
        else:
            before, after = store.compact()
            report = {"store": store.url, "bytes_before": before, "bytes": after}
            _print(report, as_json=options.json)
    return 0


def _check(store: Store) -> dict[str, Any]:
    rows = store.check()
    networks = store.networks()
    return {
        "store": store.url,
        "sound": True,
        "schema": store.schema,
        "revision": store.revision(),
        "half_life_s": store.half_life_s,
        "bytes": store.size(),
        "rows": {name.removeprefix("isplit_"): count for name, count in rows.items()},
        "networks": [network._asdict() for network in networks],
    }


def _print(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        common.emit_json(report)
        return
    for name, value in report.items():
        if name == "rows":
            print("\n" + table(("table", "rows"), value.items()))
        elif name == "networks":
            print("\n" + _network_table(value))
        else:
            print(f"{name:<14}{kilobytes(value) if name.startswith('bytes') else value}")


def _network_table(networks: list[dict[str, Any]]) -> str:
    rows = [
        (
            network["model"],
            network["version"],
            network["network_hash"][:20],
            utc_time(network["as_of"]),
        )
        for network in networks
    ]
    return table(("model", "version", "network", "newest observation"), rows)


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
