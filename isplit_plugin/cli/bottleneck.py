"""``isplit bottleneck train``: learn a smaller code for what travels."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import DataError
from . import common
from .bottleneck_options import add_bottleneck, budget_of, config_of, names_of
from .network_options import add_network, load

if TYPE_CHECKING:
    from ..bottleneck import Bottleneck

LabelResult = tuple[Path, int | None]

HELP: Final = "train bottlenecks at split points"
DESCRIPTION: Final = """\
Train the undercomplete autoencoder of I-SPLIT at one or more split points: the encoder goes to the device, the decoder
stands in front of the tail, and the code that travels has 64 times fewer values than the activation. The network around
it stays as it is, unless --whole-epochs lets it adapt afterwards.
"""
EPILOG: Final = """\
An interrupted run goes on where it stopped when it is called again with the same arguments.
Without --test, one photo in five of --data is held out to measure the result.

example:
  isplit bottleneck train --network torchvision:resnet50 --weights w.safetensors --split layer2,layer3 \
    --data photos/ -o out
writes out/layer2~n64s4d2.bottleneck.safetensors and so on: package them with `isplit package --bottleneck FILE`
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("train",), help="train")
    add_network(parser)
    parser.add_argument("--split", required=True, metavar="A,B", help="split points, by name")
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="PATH",
        help="photos to train on, labelled or not",
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
        help="where bottlenecks are written",
    )
    add_bottleneck(parser)
    parser.add_argument(
        "--codecs",
        metavar="A,B",
        help="codecs to measure on the code (default: all quantised ones)",
    )
    parser.add_argument(
        "--memory",
        type=float,
        default=2.0,
        metavar="GB",
        help="features kept in memory (%(default)s)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="ignore what an earlier run left in DIR"
    )
    parser.add_argument(
        "--json", action="store_true", help="the bottlenecks as JSON on stdout, no progress"
    )


def run(options: argparse.Namespace) -> int:
    from ..bottleneck import Epoch, Photos, train_bottlenecks
    from ..network import calibration_folder
    from ..network.execution import cpu_threads

    loaded, net = load(options)
    found = calibration_folder(options.data, loaded.classes)
    if options.test is None:
        found, held = _hold_out(found)
    else:
        held = calibration_folder(options.test, loaded.classes)
    photos, test = (
        Photos(part, loaded.preprocessing, len(loaded.classes)) for part in (found, held)
    )
    for part in (photos, test):
        if part.skipped:
            print(
                f"skipped {len(part.skipped)} unreadable: {part.skipped_names()}", file=sys.stderr
            )

    def show(name: str, stage: str, epoch: int, epochs: int, line: Epoch) -> None:
        print(
            f"{name} {stage} {epoch}/{epochs}: loss {line.train_loss:.3f}, held out {line.loss:.3f}, "
            f"{line.agreement:.1%} agree",
            file=sys.stderr,
            flush=True,
        )

    with cpu_threads(options.threads):
        bottlenecks = train_bottlenecks(
            net,
            names_of(options.split) or (),
            photos,
            preprocessing=loaded.preprocessing,
            test=test,
            config=config_of(options),
            budget=budget_of(options),
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


def _hold_out(
    found: list[LabelResult], every: int = 5
) -> tuple[list[LabelResult], list[LabelResult]]:
    """One photo in five, spread over the classes because the list is sorted by class. Raises DataError."""
    if len(found) < every:
        raise DataError(f"expected at least {every} photos, or --test, got {len(found)}")
    return [f for i, f in enumerate(found) if i % every], found[::every]


def render(bottlenecks: list[Bottleneck]) -> str:
    """One line for each bottleneck and codec, the smallest first."""
    rows = [
        (
            v.name,
            "x".join(map(str, v.code_shape)),
            m.codec,
            round(m.nbytes),
            f"{m.agreement:.1%}",
            _percent(m.accuracy),
        )
        for v in bottlenecks
        for m in sorted(v.measures, key=lambda m: m.nbytes)[:6]
    ]
    return common.table(("bottleneck", "code", "codec", "bytes", "agreement", "accuracy"), rows)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"
