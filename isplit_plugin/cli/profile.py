"""``isplit profile``: measure a network on calibration photos."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from ..errors import QueryError, UnknownClassError
from ..schema import INPUT
from . import common
from .network_options import add_network, load

if TYPE_CHECKING:
    from ..profile import Profile

HELP: Final = "measure a network on calibration photos"
DESCRIPTION: Final = """\
Run a network over calibration photos and write down what later decisions need: the class-conditional importance of
every split point (CUI, I-SPLIT), sizes, multiply-accumulates, head and tail times, and for each codec the measured
bytes and the share of photos on which the cut network still agrees with the whole one.
"""
EPILOG: Final = """\
The calibration folder holds one subfolder per class, named by label or class id; or photos without subfolders
(then nothing is known of the true classes); or pass a CSV file with lines `file,label`.
A hundred photos of the classes you expect are enough to start; live traffic refines them.

examples:
  isplit profile --network torchvision:resnet50 --weights resnet50.safetensors --data photos/ -o resnet50
  isplit profile --network mypackage.nets:build --classes labels.txt --data photos.csv --split-points layer2,layer3
writes resnet50.profile.safetensors and resnet50.html (curves, sizes, codecs: open it in a browser)
"""


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument(
        "--data", required=True, type=Path, metavar="PATH", help="calibration folder or CSV"
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="NAME", help="where to write, no ending"
    )
    parser.add_argument("--name", help="the model's name (default: the last part of --output)")
    parser.add_argument(
        "--split-points",
        metavar="A,B",
        help="where to measure codecs (default: every block output); `all` for all",
    )
    parser.add_argument(
        "--target",
        choices=("predicted", "true"),
        default="predicted",
        help="the class whose score is differentiated (%(default)s; true needs labels)",
    )
    parser.add_argument(
        "--codecs",
        metavar="A,B",
        help="codecs to measure (default: the usual ones); `all` for every one (docs/explanation/codecs.md)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="share of photos on which the smallest codec may disagree with the full network (%(default)s)",
    )
    parser.add_argument(
        "--predictors",
        metavar="A,B",
        help="more predictors of where a bottleneck is worth training, such as kl-linear (see isplit evaluate)",
    )
    parser.add_argument(
        "--show-classes",
        metavar="ID,ID",
        help="classes to draw in the figure (default: the 5 commonest)",
    )
    parser.add_argument(
        "--limit",
        type=common.positive_int,
        metavar="N",
        help="use the first N photos of each class only",
    )
    parser.add_argument(
        "--batch-size", type=common.positive_int, default=8, metavar="N", help="%(default)s"
    )
    parser.add_argument(
        "--threads",
        type=common.positive_int,
        metavar="N",
        help="CPU threads (default: torch's choice)",
    )
    parser.add_argument("--no-report", action="store_true", help="do not write the HTML page")
    parser.add_argument("--json", action="store_true", help="the summary as JSON on stdout")


def run(options: argparse.Namespace) -> int:
    from ..network import calibration_folder, profile
    from ..wire import codec_names

    if not 0 <= options.tolerance <= 1:
        raise QueryError(f"--tolerance: expected 0 to 1, got {options.tolerance}")
    codecs = _codecs(options.codecs, codec_names())
    shown = common.class_ids(options.show_classes) if options.show_classes else None
    common.make_folder(options.output.parent)
    common.note(options, f"capturing {options.network} ...")
    loaded, net = load(options)
    for class_id in shown or ():
        if class_id >= len(loaded.classes):
            raise UnknownClassError.of(class_id, (f"0 to {len(loaded.classes) - 1}",))
    images = calibration_folder(options.data, loaded.classes, limit_per_class=options.limit)
    common.note(options, f"measuring on {len(images)} photos, then the times of head and tail ...")
    points = _points(options.split_points, [point.name for point in net.split_points])
    result = profile(
        net,
        images,
        preprocessing=loaded.preprocessing,
        classes=loaded.classes,
        model=options.name or options.output.name,
        split_points=points,
        codecs=codecs,
        target=options.target,
        batch_size=options.batch_size,
        threads=options.threads,
        progress=not options.json,
    )
    if options.predictors:
        from dataclasses import replace

        from ..bottleneck import Photos
        from ..evaluation import profile_predictions

        photos = Photos(images, loaded.preprocessing, len(loaded.classes))
        names = [word.strip() for word in options.predictors.split(",")]
        result = replace(result, predictions=profile_predictions(net, photos, names))
    path = options.output.with_name(f"{options.output.name}.profile.safetensors")
    result.save(path)
    page = None
    if not options.no_report:
        from ..report import write_report

        page = options.output.with_name(f"{options.output.name}.html")
        write_report(page, result, shown_classes=shown)
    if options.json:
        common.emit_json(
            summary(result, options.tolerance)
            | {"profile": str(path), "report": page and str(page)}
        )
    else:
        print(render(result))
        print(f"\n{render_smallest(result, options.tolerance)}")
        print(f"\nwrote {path}" + (f" and {page}" if page else ""))
    return 0


def _points(text: str | None, known: list[str]) -> list[str] | None:
    if text is None:
        return None
    return known if text == "all" else [word.strip() for word in text.split(",")]


def _codecs(text: str | None, known: Sequence[str]) -> Sequence[str]:
    """The codecs to measure. Raises UnknownCodecError before the network is loaded."""
    from ..wire import CODECS, unknown_codec

    if text in (None, "all"):
        return CODECS if text is None else known
    names = [word.strip() for word in text.split(",")]
    for name in names:
        if name not in known:
            raise unknown_codec(name, CODECS, known)
    return names


def summary(result: Profile, tolerance: float = 0.01) -> dict[str, object]:
    """What programs want to know of a profile."""
    from ..advice import smallest_codec

    smallest = {name: smallest_codec(result, name, tolerance) for name in _measured(result)}
    mean, _, _ = result.curve()
    return {
        "model": result.model,
        "network_hash": result.network_hash,
        "images": int(result.count.sum()),
        "skipped": int(result.provenance.get("skipped", "0")),
        "classes_seen": [int(c) for c in result.class_ids],
        "accuracy": result.accuracy,
        "curve": {
            point.name: float(value) for point, value in zip(result.split_points, mean, strict=True)
        },
        "measures": [
            {
                "split_point": m.split_point,
                "codec": m.codec,
                "bytes": m.nbytes,
                "agreement": float(m.agreeing.sum() / max(1, m.images.sum())),
            }
            for m in result.measurements
        ],
        "smallest": {
            name: found
            and {
                "codec": found.measure.codec,
                "bytes": found.measure.nbytes,
                "agreement": found.agreement,
                "low": found.low,
                "images": found.images,
            }
            for name, found in smallest.items()
        },
    }


def _measured(result: Profile) -> list[str]:
    """Where something is sent and was measured, from the input onwards."""
    measured = {m.split_point for m in result.measurements}
    return [name for name in (INPUT, *(p.name for p in result.split_points)) if name in measured]


def render_smallest(result: Profile, tolerance: float) -> str:
    """The smallest codec of each split point whose top-1 stays the full network's within the tolerance."""
    from ..advice import smallest_codec

    jpeg = next((m.nbytes for m in result.measurements if m.codec == "jpeg"), np.nan)
    rows: list[tuple[object, ...]] = []
    for name in _measured(result):
        found = smallest_codec(result, name, tolerance)
        if found is None:
            rows.append((name, "none measured", "-", "-", "-", "-"))
            continue
        rows.append(
            (
                name,
                found.measure.codec,
                round(found.measure.nbytes),
                f"{found.measure.nbytes / jpeg:.2f}",
                f"{found.agreement:.1%}",
                f"{found.low:.1%}",
            )
        )
    title = f"smallest codec of each split point that disagrees on at most {tolerance:.1%} of the photos"
    header = ("split point", "codec", "bytes", "x JPEG", "agreement", "at least (95 %)")
    return f"{title}\n{common.table(header, rows)}"


def render(result: Profile) -> str:
    """A profile for people: one line for each measured choice, the smallest agreeing ones marked."""
    images = int(result.count.sum())
    accuracy = "" if result.accuracy is None else f", {result.accuracy:.1%} right"
    jpeg = next((m.nbytes for m in result.measurements if m.codec == "jpeg"), np.nan)
    rows = []
    for measure in sorted(result.measurements, key=lambda m: m.nbytes):
        agreement = measure.agreeing.sum() / max(1, measure.images.sum())
        rows.append(
            (
                measure.split_point,
                measure.codec,
                round(measure.nbytes),
                f"{measure.nbytes / jpeg:.2f}",
                f"{agreement:.1%}",
                f"{result.head_ms.get(measure.split_point, float('nan')):.1f}",
                f"{result.tail_ms.get(measure.split_point, float('nan')):.1f}",
            )
        )
    header = ("split point", "codec", "bytes", "x JPEG", "agreement", "head ms", "tail ms")
    title = f"{result.model}: {images} photos, {len(result.class_ids)} classes seen{accuracy}"
    told = result.provenance
    if told.get("skipped", "0") != "0":
        title += f"\nwarning: {told['skipped']} skipped, {told.get('skipped_why', 'unreadable')}"
    return f"{title}\n{common.table(header, rows[:24])}"
