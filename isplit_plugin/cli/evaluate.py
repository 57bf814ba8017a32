"""``isplit evaluate``: measure which predictor of a bottleneck's accuracy to trust."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import common
from .bottleneck_options import add_bottleneck, budget_of, config_of, load_photos, names_of
from .network_options import add_network, load

if TYPE_CHECKING:
    from ..evaluation import Settings

HELP: Final = "compare predicted with measured accuracy at every split point"
DESCRIPTION: Final = """\
Train a bottleneck at every candidate split point, with several seeds, and measure the accuracy of
the network with it. Compare every predictor that needs no training (depth, bytes, CUI, distortions)
with that: rank correlations with bootstrap intervals, and the accuracy lost by trusting the
predictor. The tables also show baselines: JPEG to the server, everything on the device, and codecs
without training.
"""
EPILOG: Final = """\
To resume an interrupted evaluation, call it again; --work keeps the trained bottlenecks.

examples:
  isplit evaluate --network mypackage.nets:build --train train/ --data held_out/ -o evaluation
  isplit evaluate --network torchvision:vgg16_bn --weights w.safetensors --train t/ --data v/ \\
    --images 2000 -o vgg16
writes evaluation.json, evaluation.md, evaluation-prediction.svg and evaluation-bytes.svg
"""


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    _add_files(parser)
    _add_measurement(parser)
    add_bottleneck(parser)


def run(options: argparse.Namespace) -> int:
    from ..evaluation import evaluate, render
    from ..network import calibration_folder, cpu_threads

    loaded, net = load(options)
    train, test = (
        load_photos(calibration_folder(path, loaded.classes), loaded)
        for path in (options.train, options.data)
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
            settings=_settings_of(options),
            directory=options.work or output.with_name(f"{output.name}.work"),
            device=options.device,
            progress=None
            if options.json
            else lambda line: print(line, file=sys.stderr, flush=True),
        )
    written = _write(result, output, figures=not options.no_figures)
    if options.json:
        common.emit_json(result)
    else:
        print(render(result))
        print(f"\nwrote {', '.join(map(str, written))}")
    return 0


def _settings_of(options: argparse.Namespace) -> Settings:
    from ..evaluation import Settings

    return Settings(
        config=config_of(options),
        budget=budget_of(options),
        seeds=tuple(range(options.seed, options.seed + options.seeds)),
        calibration=options.calibration,
        test_limit=options.test_limit,
        baseline_photos=options.baseline_photos,
        repeats=options.bootstrap,
        predictors=names_of(options.predictors),
    )


def _write(result: dict[str, Any], output: Path, *, figures: bool) -> list[Path]:
    """Write JSON, tables and figures. Returns the files."""
    from ..evaluation import bytes_figure, prediction_figure, render, save

    written = [save(result, output.with_name(f"{output.name}.json"))]
    tables = output.with_name(f"{output.name}.md")
    tables.write_text(render(result) + "\n")
    written.append(tables)
    if figures:
        prediction = output.with_name(f"{output.name}-prediction.svg")
        nbytes = output.with_name(f"{output.name}-bytes.svg")
        written += [prediction_figure([result], prediction), bytes_figure([result], nbytes)]
    return written


def _add_files(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("photos and files")
    files.add_argument(
        "--train", required=True, type=Path, metavar="PATH", help="photos to train bottlenecks on"
    )
    files.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="PATH",
        help="other photos with labels, for the predictors and for measuring",
    )
    files.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="NAME",
        help="files to write, without suffix",
    )
    files.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="folder of the trained bottlenecks (default: NAME.work)",
    )
    files.add_argument("--name", help="title (default: the last part of --output)")
    files.add_argument(
        "--no-figures", action="store_true", help="write no figures, which need matplotlib"
    )
    files.add_argument(
        "--json", action="store_true", help="print the result as JSON, without progress"
    )


def _add_measurement(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--split-points",
        metavar="A,B",
        help="candidates (default: every block output where the autoencoder fits)",
    )
    group.add_argument("--predictors", metavar="A,B", help="predictors to compare (default: all)")
    numbers = {
        "--seeds": (3, "trainings at each split point"),
        "--calibration": (256, "photos of --data that are for the predictors"),
        "--test-limit": (None, "measure accuracy on at most N photos"),
        "--baseline-photos": (500, "measure bytes on at most N of these photos"),
        "--bootstrap": (1000, "bootstrap resamples"),
    }
    for option, (default, text) in numbers.items():
        shown = "all" if default is None else default
        group.add_argument(
            option, type=int, default=default, metavar="N", help=f"{text} (default: {shown})"
        )
