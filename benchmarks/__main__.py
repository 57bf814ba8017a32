"""Run benchmarks, all of them or those that are named: a table on stdout, JSON with --json FILE.

The first lines of benchmarks/NAME.py say what each one measures. The soak test (make soak) and the
large study (python -m benchmarks.evaluation) are commands of their own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path

from . import adaptive, photos, resnet50, subjects, transform, winners
from .harness import table

NAMES = (
    "importance",
    "codecs",
    "photos",
    "bottleneck",
    "serving",
    "overhead",
    "throughput",
    "forwarder",
    "store",
    "store_cpu",
    "memory",
    "probes",
    "bias",
    "client",
    "bundles",
    "transform",
    "ablation",
    "trained_transform",
    "refinement",
    "adaptive",
    "replay",
    "exits",
    "release",
    "exit_costs",
    "exit_networks",
    "winners",
    "int8",
    "by_class",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run at all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="machine-readable result")
    parser.add_argument(
        "--resnet50",
        type=Path,
        metavar="FILE",
        help=f"ImageNet weights for more rows; default: ${resnet50.VARIABLE}",
    )
    parser.add_argument(
        "--photos",
        "--data",
        type=Path,
        metavar="FOLDER",
        help="photos for `photos`, `bundles`, `transform`, `ablation`, `trained_transform`, `refinement`, `int8`, "
        "`by_class` and `exits`; "
        f"default: ${photos.VARIABLE}, or those of foolbox",
    )
    parser.add_argument(
        "--cuts",
        metavar="A,B",
        help="cuts for `transform`, `ablation`, `trained_transform`, `refinement` and `int8`, such as "
        "efficientnet-lite0:_blocks.5",
    )
    parser.add_argument(
        "--study",
        type=Path,
        metavar="FOLDER",
        help="the --work folder of `python -m benchmarks.evaluation train`, for cuts such as "
        f"resnet20_notmnist:block2c; default: ${subjects.STUDY}",
    )
    parser.add_argument(
        "--photo-counts",
        metavar="N,M",
        help="photos that `transform`, `ablation`, `trained_transform` and `int8` fit on, and others that they "
        "measure on; default: "
        f"{transform.DEFAULT_COUNTS}, for `int8` 100,200",
    )
    parser.add_argument(
        "--corrector-steps",
        metavar="N",
        help="train correctors for `transform`, too, in so many steps (250 take minutes each)",
    )
    parser.add_argument(
        "--traces",
        type=Path,
        metavar="FOLDER",
        help=f"recorded links for `adaptive` and `replay`, *.up; default: ${adaptive.VARIABLE}",
    )
    parser.add_argument(
        "--profiles",
        metavar="FILE,FILE",
        help=f"profiles for `winners`, of isplit profile; default: ${winners.PROFILES}",
    )
    parser.add_argument(
        "--max-head-macs",
        type=float,
        metavar="N",
        help=f"MACs that a device runs at most, for `winners`; default: {winners.DEFAULT_LIMIT:g}",
    )
    options = parser.parse_args()
    if options.profiles is not None:
        os.environ[winners.PROFILES] = options.profiles
    if options.max_head_macs is not None:
        os.environ[winners.LIMIT] = str(options.max_head_macs)
    if options.photos is not None:
        os.environ[photos.VARIABLE] = str(options.photos)
    if options.cuts is not None:
        os.environ[subjects.CUTS] = options.cuts
    if options.study is not None:
        os.environ[subjects.STUDY] = str(options.study)
    if options.photo_counts is not None:
        os.environ[transform.COUNTS] = options.photo_counts
    if options.corrector_steps is not None:
        os.environ[transform.STEPS] = options.corrector_steps
    if options.traces is not None:
        os.environ[adaptive.VARIABLE] = str(options.traces)
    if options.resnet50 is not None:
        os.environ[resnet50.VARIABLE] = str(options.resnet50)
    result: dict[str, object] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "quick": options.quick,
    }
    for name in options.names or NAMES:
        started = time.perf_counter()
        rows = importlib.import_module(f".{name}", __package__).run(quick=options.quick)
        result[name] = rows
        print(f"\n== {name} ({time.perf_counter() - started:.0f} s)\n{table(rows)}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
        print(f"\nwrote {options.json}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
