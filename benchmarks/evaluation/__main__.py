"""The study, one network and data set at a time: ``python -m benchmarks.evaluation run resnet20 notmnist ...``.

``run`` prepares the data, trains the network from scratch where its weights are not there yet, evaluates it with the
stated budget and writes ``<network>_<data>.json`` below ``--out``. What is expensive stays in ``--work``, so that an
interrupted run goes on where it stopped. ``report`` turns all results below ``--out`` into tables and figures.
``encoders`` compares the trained encoders under onnxruntime with the same under torch.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from isplit_plugin.cli import main as isplit

from .encoders import encoders
from .networks import BUILDERS, DATA_SETS, LARGE
from .prepare import prepare
from .report import report
from .train import EPOCHS, train

BUDGET = {
    "--epochs": "4",
    "--images": "2000",
    "--seeds": "2",
    "--calibration": "256",
    "--rival-photos": "500",
}


def run(options: argparse.Namespace, extra: list[str]) -> int:
    network, data, work, out = options.network, options.data, options.work, options.out
    folder = prepare(data, options.source, work, limit=options.slice)
    weights = work / "weights"
    if not (weights / f"{network}_{data}.json").exists():
        epochs = options.base_epochs or EPOCHS[data]
        train(
            network, data, folder, weights, epochs=epochs, init=options.init, device=options.device
        )
    out.mkdir(parents=True, exist_ok=True)
    arguments = [
        "evaluate",
        f"--network=benchmarks.evaluation.networks:{network}_{data}",
        f"--weights={weights / f'{network}_{data}.safetensors'}",
        f"--classes={folder / 'classes.txt'}",
        f"--train={folder / 'train'}",
        f"--data={folder / 'val'}",
        f"--work={work / 'evaluation' / f'{network}_{data}'}",
        f"--output={out / f'{network}_{data}'}",
        *(f"{name}={value}" for name, value in BUDGET.items()),
        f"--device={options.device}",
        "--no-figures",
        *extra,
    ]
    code = isplit(arguments)
    result = out / f"{network}_{data}.json"
    if code == 0:
        found = json.loads(result.read_text())
        found["base_network"] = json.loads((weights / f"{network}_{data}.json").read_text())
        result.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    return code


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser(
        "run", help="one network on one data set; more options go to `isplit evaluate`"
    )
    one.add_argument("network", choices=sorted((*BUILDERS, *LARGE)))
    one.add_argument("data", choices=sorted(DATA_SETS))
    one.add_argument(
        "--source", type=Path, required=True, metavar="DIR", help="folder with the archives"
    )
    one.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="folder for everything in between"
    )
    one.add_argument(
        "--out",
        type=Path,
        default=Path("docs/explanation/evaluation"),
        metavar="DIR",
        help="%(default)s",
    )
    one.add_argument(
        "--init", type=Path, metavar="FILE", help="weights that the base network starts from"
    )
    one.add_argument("--device", default="cpu", help="%(default)s")
    one.add_argument(
        "--base-epochs", type=int, metavar="N", help=f"of the base network; default: {EPOCHS}"
    )
    one.add_argument(
        "--slice", type=int, metavar="N", help="only N photos of each class: a quick try, no result"
    )
    two = commands.add_parser("report", help="tables and figures of all results")
    two.add_argument(
        "--out",
        type=Path,
        default=Path("docs/explanation/evaluation"),
        metavar="DIR",
        help="%(default)s",
    )
    three = commands.add_parser(
        "encoders", help="trained encoders under onnxruntime against torch, whole test sets"
    )
    three.add_argument(
        "network", nargs="*", metavar="NETWORK_DATA", help="default: all that were run"
    )
    three.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="the folder of `run`"
    )
    three.add_argument("--seeds", type=int, default=1, metavar="N", help="%(default)s")
    options, extra = parser.parse_known_args()
    if extra and options.command != "run":
        parser.error(f"unknown arguments: {' '.join(extra)}")
    if options.command == "report":
        print(report(options.out))
        return 0
    if options.command == "encoders":
        print(encoders(options.work, options.network, options.seeds))
        return 0
    if options.device == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        extra.append("--threads=1")
    return run(options, extra)


if __name__ == "__main__":
    raise SystemExit(main())
