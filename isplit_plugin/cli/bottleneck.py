"""``isplit bottleneck train``: train bottlenecks at split points."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import DataError
from ..terminal import table
from . import common
from .bottleneck_options import add_bottleneck, budget_of, config_of, load_photos, names_of
from .network_options import add_network, load

if TYPE_CHECKING:
    from ..bottleneck import Bottleneck, Budget, EpochResult

LabelledFile = tuple[Path, int | None]

HELP: Final = "train bottlenecks at split points"
DESCRIPTION: Final = """\
Train the undercomplete autoencoder of I-SPLIT at one or more split points. The encoder runs on the
device and the decoder on the server. The code that travels has 64 times fewer values than the
activation. The network itself stays as it is, unless --finetune-epochs trains it as well.
"""
EPILOG: Final = """\
To resume an interrupted run, call it again with the same arguments.
Without --test, every fifth photo of --data is used for measuring instead of training.

example:
  isplit bottleneck train --network torchvision:resnet50 --weights w.safetensors \\
    --split-points layer2,layer3 --data photos/ -o out
writes out/layer2~n64s4d2.bottleneck.safetensors and one file for layer3;
deploy a bottleneck with `isplit package --bottleneck FILE`
"""

_HOLD_OUT_EVERY: Final = 5
_CODECS_SHOWN: Final = 6


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("train",), help="what to do")
    add_network(parser)
    parser.add_argument(
        "--split-points", required=True, metavar="A,B", help="where to train one bottleneck each"
    )
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="PATH",
        help="photos to train on, with or without labels",
    )
    parser.add_argument(
        "--test", type=Path, metavar="PATH", help="other photos to measure the result on"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder to write the bottlenecks to",
    )
    add_bottleneck(parser)
    parser.add_argument(
        "--codecs",
        metavar="A,B",
        help="codecs to measure on the code (default: all quantised codecs)",
    )
    parser.add_argument(
        "--memory",
        type=float,
        default=2.0,
        metavar="GB",
        help="most memory for activations of the photos (default: %(default)s)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="do not resume what an earlier run left in DIR"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the bottlenecks as JSON, without progress"
    )


def run(options: argparse.Namespace) -> int:
    from ..bottleneck import train_bottlenecks
    from ..network import calibration_folder, cpu_threads

    loaded, net = load(options)
    files = calibration_folder(options.data, loaded.classes)
    if options.test is None:
        files, test_files = _hold_out(files)
    else:
        test_files = calibration_folder(options.test, loaded.classes)
    budget = budget_of(options)

    def show(name: str, epoch: EpochResult) -> None:
        print(_progress_line(name, epoch, budget), file=sys.stderr, flush=True)

    with cpu_threads(options.threads):
        bottlenecks = train_bottlenecks(
            net,
            names_of(options.split_points) or (),
            load_photos(files, loaded),
            preprocessing=loaded.preprocessing,
            test=load_photos(test_files, loaded),
            config=config_of(options),
            budget=budget,
            seed=options.seed,
            codecs=names_of(options.codecs),
            directory=options.output,
            resume=not options.fresh,
            max_bytes=int(options.memory * 1e9),
            device=options.device,
            progress=None if options.json else show,
        )
    if options.json:
        common.emit_json([bottleneck.describe() for bottleneck in bottlenecks])
    else:
        print(render(bottlenecks))
        print(f"\nwrote {len(bottlenecks)} bottlenecks to {options.output}")
    return 0


def render(bottlenecks: Sequence[Bottleneck]) -> str:
    """A table with one line for each bottleneck and codec, the fewest bytes first."""
    rows = [
        (
            bottleneck.name,
            "x".join(map(str, bottleneck.code_shape)),
            measurement.codec,
            round(measurement.nbytes),
            f"{measurement.agreement:.1%}",
            "-" if math.isnan(measurement.accuracy) else f"{measurement.accuracy:.1%}",
        )
        for bottleneck in bottlenecks
        for measurement in sorted(bottleneck.measurements, key=lambda m: m.nbytes)[:_CODECS_SHOWN]
    ]
    return table(("bottleneck", "code", "codec", "bytes", "agreement", "accuracy"), rows)


def _hold_out(files: Sequence[LabelledFile]) -> tuple[list[LabelledFile], list[LabelledFile]]:
    """Photos to train on and photos to measure on, every fifth of the list.

    The list is sorted by class, so both parts have photos of all classes. Raises DataError.
    """
    if len(files) < _HOLD_OUT_EVERY:
        raise DataError(f"expected --test or at least {_HOLD_OUT_EVERY} photos, got {len(files)}")
    train = [file for i, file in enumerate(files) if i % _HOLD_OUT_EVERY]
    return train, list(files[::_HOLD_OUT_EVERY])


def _progress_line(name: str, epoch: EpochResult, budget: Budget) -> str:
    return (
        f"{name} {epoch.stage} {epoch.epoch}/{budget.stage_epochs(epoch.stage)}: "
        f"loss {epoch.train_loss:.3f}, validation loss {epoch.validation_loss:.3f}, "
        f"agreement {epoch.agreement:.1%}"
    )
