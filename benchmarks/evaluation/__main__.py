"""The study, one network and data set at a time: ``python -m benchmarks.evaluation run ...``.

``run`` prepares the data, trains the network from scratch unless its weights exist, evaluates it
with the study's budget and writes ``<network>_<data>.json`` to ``--out``. With ``--base-seeds 3``
it does so for three base networks, trained from different seeds; the results of the others are
``<network>_<data>-base<seed>.json``. Everything that takes long is kept in ``--work``; to resume an
interrupted run, call it again. ``train`` stops before the evaluation. ``report`` writes tables and
figures of all results in ``--out``. The seeds of one base network count as one result there, and
its intervals resample them, too. ``encoders`` compares the trained encoders in onnxruntime with the
same encoders in torch.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from isplit_plugin.cli import main as isplit
from isplit_plugin.cli.common import positive_int

from .encoders import compare_all
from .networks import BUILDERS, DATA_SETS, LARGE
from .prepare import prepare
from .report import report
from .train import EPOCHS, result_name, train

OUT = Path("docs/explanation/evaluation")
BUDGET = {
    "--epochs": "4",
    "--images": "2000",
    "--seeds": "2",
    "--calibration": "256",
    "--baseline-photos": "500",
}


def main() -> int:
    parser = _parser()
    options, extra = parser.parse_known_args()
    if extra and options.command != "run":
        parser.error(f"unknown arguments: {' '.join(extra)}")
    if options.command == "report":
        print(report(options.out))
        return 0
    if options.command == "encoders":
        print(compare_all(options.work, options.network, options.seeds))
        return 0
    if options.device == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        extra.append("--threads=1")
    return run(options, extra)


def run(options: argparse.Namespace, extra: Sequence[str]) -> int:
    """Run the study for one network and data set. ``extra`` goes to ``isplit evaluate``."""
    folder = prepare(options.data, options.source, options.work, limit=options.slice)
    options.out.mkdir(parents=True, exist_ok=True)
    codes = (_run_seed(options, extra, folder, seed) for seed in range(options.base_seeds))
    return next((code for code in codes if code != 0), 0)


def _run_seed(options: argparse.Namespace, extra: Sequence[str], folder: Path, seed: int) -> int:
    """The study with the base network of one seed."""
    network = f"{options.network}_{options.data}"
    name = result_name(network, seed)
    weights: Path = options.work / "weights"
    if not (weights / f"{name}.json").exists():
        train(
            options.network,
            options.data,
            folder,
            weights,
            epochs=options.base_epochs or EPOCHS[options.data],
            seed=seed,
            init=options.init,
            device=options.device,
        )
    if options.command == "train":
        return 0
    code = isplit(
        [
            "evaluate",
            f"--network=benchmarks.evaluation.networks:{network}",
            f"--weights={weights / f'{name}.safetensors'}",
            f"--classes={folder / 'classes.txt'}",
            f"--train={folder / 'train'}",
            f"--data={folder / 'val'}",
            f"--work={options.work / 'evaluation' / name}",
            f"--output={options.out / name}",
            *(f"{option}={value}" for option, value in BUDGET.items()),
            f"--device={options.device}",
            "--no-figures",
            *extra,
        ]
    )
    if code == 0:
        path = options.out / f"{name}.json"
        result = json.loads(path.read_text())
        result["base_network"] = json.loads((weights / f"{name}.json").read_text())
        path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_run(
        commands.add_parser(
            "run", help="one network on one data set; other options go to `isplit evaluate`"
        )
    )
    _add_run(commands.add_parser("train", help="train the base network alone, without the study"))
    report_command = commands.add_parser("report", help="tables and figures of all results")
    _add_out(report_command)
    encoders_command = commands.add_parser(
        "encoders", help="trained encoders in onnxruntime against torch, on whole test sets"
    )
    encoders_command.add_argument(
        "network", nargs="*", metavar="NETWORK_DATA", help="default: all that were run"
    )
    encoders_command.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="the --work folder of `run`"
    )
    encoders_command.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="default: %(default)s"
    )
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", choices=sorted((*BUILDERS, *LARGE)))
    parser.add_argument("data", choices=sorted(DATA_SETS))
    parser.add_argument(
        "--source", type=Path, required=True, metavar="DIR", help="folder of the archives"
    )
    parser.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="folder for intermediate files"
    )
    _add_out(parser)
    parser.add_argument(
        "--init", type=Path, metavar="FILE", help="weights that the base network starts from"
    )
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument(
        "--base-epochs", type=int, metavar="N", help=f"epochs of the base network ({EPOCHS})"
    )
    parser.add_argument(
        "--base-seeds",
        type=positive_int,
        default=1,
        metavar="N",
        help="train N base networks, one for each seed: how much rests on the base network's "
        "training (default: %(default)s); --seeds N are trainings of each bottleneck",
    )
    parser.add_argument(
        "--slice",
        type=int,
        metavar="N",
        help="only N photos of each class, to try the command; this gives no result",
    )


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=OUT,
        metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )


if __name__ == "__main__":
    raise SystemExit(main())
