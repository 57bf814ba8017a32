"""``isplit evaluate``: which predictor of a split's accuracy to trust, measured."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from . import common
from .bottleneck_options import add_bottleneck, budget_of, config_of, names_of
from .network_options import add_network, load

HELP: Final = "compare predicted with measured accuracy at every split point"
DESCRIPTION: Final = """\
Train a small bottleneck at every candidate split point, several times, and measure what the network still gets right;
beside it every predictor that needs no training (depth, bytes, CUI, lossy channels), with rank correlations, bootstrap
intervals and the accuracy lost by trusting each of them. The table carries the naive rivals too: JPEG to the server,
everything on the device, codecs without training.
"""
EPILOG: Final = """\
Trained bottlenecks are kept in --work, so an interrupted evaluation goes on where it stopped.

examples:
  isplit evaluate --network mypackage.nets:build --train train/ --data held_out/ -o evaluation
  isplit evaluate --network torchvision:vgg16_bn --weights w.safetensors --train t/ --data v/ --images 2000 -o vgg16
writes evaluation.json, evaluation.md, evaluation-prediction.svg and evaluation-bytes.svg
"""


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument(
        "--train", required=True, type=Path, metavar="PATH", help="photos to train bottlenecks on"
    )
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="PATH",
        help="held-out labelled photos: to predict and to measure",
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="NAME", help="where to write, no ending"
    )
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="trained bottlenecks (default: NAME.work)"
    )
    parser.add_argument("--name", help="title (default: the last part of --output)")
    parser.add_argument(
        "--split-points", metavar="A,B", help="candidates (default: every block output that fits)"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="trainings at each point (%(default)s)"
    )
    parser.add_argument(
        "--calibration",
        type=int,
        default=256,
        metavar="N",
        help="photos of --data for the predictors",
    )
    parser.add_argument("--test-limit", type=int, metavar="N", help="measure on at most N photos")
    parser.add_argument(
        "--rival-photos",
        type=int,
        default=500,
        metavar="N",
        help="for JPEG and codecs (%(default)s)",
    )
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="resamples (%(default)s)"
    )
    parser.add_argument("--predictors", metavar="A,B", help="default: all that are registered")
    add_bottleneck(parser)
    parser.add_argument(
        "--no-figures", action="store_true", help="no SVG files (they need matplotlib)"
    )
    parser.add_argument(
        "--json", action="store_true", help="the result as JSON on stdout, no progress"
    )


def run(options: argparse.Namespace) -> int:
    from ..bottleneck import Photos
    from ..evaluation import Settings, evaluate, render, save
    from ..network import calibration_folder
    from ..network.execution import cpu_threads

    loaded, net = load(options)
    count = len(loaded.classes)
    train, test = (
        Photos(calibration_folder(path, loaded.classes), loaded.preprocessing, count)
        for path in (options.train, options.data)
    )
    for photos in (train, test):
        if photos.skipped:
            print(
                f"skipped {len(photos.skipped)} unreadable: {photos.skipped_names()}",
                file=sys.stderr,
            )
    settings = Settings(
        config=config_of(options),
        budget=budget_of(options),
        seeds=tuple(range(options.seed, options.seed + options.seeds)),
        calibration=options.calibration,
        test_limit=options.test_limit,
        rival_photos=options.rival_photos,
        repeats=options.bootstrap,
        predictors=names_of(options.predictors),
    )
    output: Path = options.output
    with cpu_threads(options.threads):
        result = evaluate(
            net,
            train=train,
            test=test,
            preprocessing=loaded.preprocessing,
            classes=loaded.classes,
            name=options.name or output.name,
            split_points=names_of(options.split_points),
            settings=settings,
            directory=options.work or output.with_name(f"{output.name}.work"),
            device=options.device,
            progress=None
            if options.json
            else lambda line: print(line, file=sys.stderr, flush=True),
        )
    written = [save(result, output.with_name(f"{output.name}.json"))]
    tables = output.with_name(f"{output.name}.md")
    tables.write_text(render(result) + "\n")
    written.append(tables)
    if not options.no_figures:
        from ..evaluation.figures import bytes_figure, prediction_figure

        written.append(
            prediction_figure([result], output.with_name(f"{output.name}-prediction.svg"))
        )
        written.append(bytes_figure([result], output.with_name(f"{output.name}-bytes.svg")))
    if options.json:
        common.emit_json(result)
    else:
        print(render(result))
        print(f"\nwrote {', '.join(map(str, written))}")
    return 0
