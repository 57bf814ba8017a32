"""``isplit store``: look after the statistics of live traffic."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import StoreError
from ..files import write_atomically
from . import common

if TYPE_CHECKING:
    from ..traffic import Store

HELP: Final = "check, export or compact the store of live statistics"
DESCRIPTION: Final = """\
Look after the store that the workers write live statistics to:
  check    read everything there is: is it sound, of which schema, how large, how many rows
  export   all of it as JSON lines, one row each, for any other program
  compact  roll old counts up and give free room back
"""
EPILOG: Final = """\
examples:
  isplit store check --store sqlite:////var/lib/isplit/store.sqlite3
  isplit store export --store postgresql+psycopg://isplit@db.example/isplit --output store.jsonl
  isplit store compact
  isplit store check --store sqlite:///isplit-run/store.db       # what `isplit serve` writes: WORKDIR/store.db
The servers may go on meanwhile. Without --store: ISPLIT_STORE, else what a TorchServe of your own writes by default,
~/.local/state/isplit/isplit-store.sqlite3.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("check", "export", "compact"))
    parser.add_argument(
        "--store", metavar="URL", help="sqlite:////absolute/path or postgresql+psycopg://..."
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="export: write here instead of to stdout"
    )
    parser.add_argument("--json", action="store_true", help="check, compact: the result as JSON")


def run(options: argparse.Namespace) -> int:
    from ..serving.settings import store_url
    from ..traffic import Store

    with Store(options.store or store_url(), create=False, busy_timeout_s=30.0) as store:
        if options.action == "export":
            _export(store, options.output)
        elif options.action == "check":
            _show(_check(store), as_json=options.json)
        else:
            before, after = store.compact()
            _show(
                {"store": store.url, "bytes_before": before, "bytes": after}, as_json=options.json
            )
    return 0


def _check(store: Store) -> dict[str, Any]:
    rows = store.check()
    found = store.networks()
    return {
        "store": store.url,
        "sound": True,
        "schema": store.schema,
        "revision": store.revision(),
        "half_life_s": store.half_life_s,
        "bytes": store.size(),
        "rows": {name.removeprefix("isplit_"): number for name, number in rows.items()},
        "networks": [network._asdict() for network in found],
    }


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        common.emit_json(found)
        return
    for name, value in found.items():
        if name == "rows":
            print("\n" + common.table(("table", "rows"), value.items()))
        elif name == "networks":
            lines = [
                (n["model"], n["version"], n["network_hash"][:20], common.when(n["as_of"]))
                for n in value
            ]
            print("\n" + common.table(("model", "version", "network", "newest observation"), lines))
        else:
            print(f"{name:<14}{common.kilobytes(value) if name.startswith('bytes') else value}")


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
