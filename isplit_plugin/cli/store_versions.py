"""``isplit store models`` and ``isplit store forget``: the versions in the store."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ..errors import QueryError
from ..terminal import table, utc_time
from . import common

if TYPE_CHECKING:
    from ..traffic import Forgotten, Store

_DESCRIPTION: Final = """\
Delete a version of a model from the store: its manifest, its standing picks and
their changes, and the statistics, requests and tickets of its network, unless
another version has the same network. Predictions go on.

Unregister the version first (isplit unregister). A worker that still serves it
puts it into the store again within seconds, with statistics that begin anew.
Until then, questions about it are answered with the error unknown_version, and
labels of its requests with unknown_request.
"""
_EPILOG: Final = """\
examples:
  isplit store forget resnet50 --version 1.0 --dry-run   # what would be deleted
  isplit store forget resnet50 --version 1.0             # asks before it deletes
  isplit store forget resnet50 --network 6a556ef75efc --yes
"""
_RECENT_S: Final = 3600.0
_SHOWN_DIGITS: Final = 20


def configure_forget(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``isplit store forget``."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument("model", help="name of the model")
    parser.add_argument("--version", metavar="V", help="the version to forget")
    parser.add_argument(
        "--network",
        metavar="HASH",
        help="the network to forget, by at least 8 digits of its hash: where a version has several",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be deleted")
    parser.add_argument("--yes", action="store_true", help="delete without asking")


def show_models(store: Store, options: argparse.Namespace) -> None:
    """Print the versions of all models."""
    rows = [stored._asdict() for stored in store.networks()]
    if options.json:
        common.emit_json({"store": store.url, "models": rows})
    else:
        print(version_table(rows))


def version_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Versions for people."""
    cells = [
        (
            row["model"],
            row["version"],
            "*" if row["current"] else "",
            row["network_hash"][:_SHOWN_DIGITS],
            row["moved_deltas"],
            utc_time(row["as_of"]),
        )
        for row in rows
    ]
    titles = ("model", "version", "current", "network", "moved deltas", "newest request")
    return table(titles, cells)


def forget(store: Store, options: argparse.Namespace) -> int:
    """Say what would be deleted, ask, and delete it.

    Raises:
        QueryError: nobody can be asked, or no version is named.
        UnknownModelError: the store has no such model, version or network.
    """
    if options.version is None and options.network is None:
        raise QueryError(
            "expected --version or --network; isplit store models lists what the store has"
        )
    chosen: dict[str, Any] = {"version": options.version, "network_hash": options.network}
    plan = store.forget(options.model, **chosen, dry_run=True)
    if not options.json:
        print(_text(plan))
    if not options.dry_run:
        if not (options.yes or _agreed(options)):
            print("nothing was deleted")
            return 1
        plan = store.forget(options.model, **chosen)
    if options.json:
        common.emit_json(_report(plan, dry_run=options.dry_run))
    else:
        print("nothing was deleted (--dry-run)" if options.dry_run else "deleted")
    return 0


def _agreed(options: argparse.Namespace) -> bool:
    if options.json or not sys.stdin.isatty():
        raise QueryError("expected --yes or --dry-run, for nobody can be asked here")
    return input("Delete this? [y/N] ").strip().lower() in ("y", "yes")


def _text(plan: Forgotten) -> str:
    lines = [version_table(stored._asdict() for stored in plan.versions), ""]
    shared = {stored.network_hash for stored in plan.versions} - set(plan.networks)
    lines += [
        f"The statistics of network {network[:_SHOWN_DIGITS]} stay: another version has it."
        for network in sorted(shared)
    ]
    lines += [table(("rows of", "number"), plan.rows.items())]
    now = time.time()
    for stored in plan.versions:
        age_s = now - (stored.as_of or 0.0)
        if age_s < _RECENT_S:
            lines += [
                "",
                f"warning: {stored.model} {stored.version} answered a request {age_s:.0f} s ago. "
                "A worker that still serves it puts it into the store again, with statistics "
                "that begin anew. To end it first: "
                f"isplit unregister {stored.model} --version {stored.version}",
            ]
    return "\n".join(lines)


def _report(plan: Forgotten, *, dry_run: bool) -> dict[str, Any]:
    return {
        "forgotten": not dry_run,
        "versions": [stored._asdict() for stored in plan.versions],
        "networks": list(plan.networks),
        "rows": dict(plan.rows),
    }
