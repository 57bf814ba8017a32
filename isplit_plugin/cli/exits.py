"""``isplit exits``: how far the exits of a model are."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from ..terminal import exits_text
from . import common

HELP: Final = "show which classes devices may answer by themselves"
DESCRIPTION: Final = """\
An exit is an answer of the device itself, from what the head has computed, for
the classes for which live traffic has proven that it agrees with the full
network. For each cut and class the endpoint says: its state, its shadow answers
and how many are missing at least, the share of its photos that are released, the
photos that devices answered (estimated), and what audits show.
Exits are off until a server has a key: isplit docs answer-on-the-device
"""
EPILOG: Final = """\
examples:
  isplit exits resnet50 --device-token-file phone.token
  isplit exits resnet50 --json
  isplit exits resnet50 --report exits.html
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="name that the model is registered by")
    parser.add_argument(
        "--version", metavar="V", help="version of the model (default: the current one)"
    )
    parser.add_argument("--json", action="store_true", help="print the endpoint's answer as JSON")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write an HTML page")
    common.add_connection(parser)


def run(options: argparse.Namespace) -> int:
    from ..client import fetch_exits

    listing = fetch_exits(
        options.url, options.model, common.bearer_of(options), version=options.version
    )
    if options.json:
        common.emit_json(listing)
    else:
        print(exits_text(listing))
    if options.report is not None:
        from ..report import write_exits

        write_exits(options.report, listing)
        print(f"report: {options.report}", file=sys.stderr)
    return 0
