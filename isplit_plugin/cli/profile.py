"""``isplit profile``: measure a network on calibration photos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from ..photo_codecs import PHOTOS
from . import common
from .corrector_options import add_corrector_options, corrector_summary, render_correctors
from .network_options import add_network
from .profile_measuring import Measured, measure
from .profile_summary import render, summary

_FILES: Final = ("profile", "transforms", "correctors", "heads", "report")

HELP: Final = "measure a network on calibration photos"
DESCRIPTION: Final = """\
Measure a network on calibration photos and write a profile: what is known about each place
where the network can be cut, before there is any traffic. `isplit package` needs it, and the
server's first recommendations rest on it.

At every split point, a profile holds
  importance   how strongly the score of the predicted class depends on the activation there
               (CUI of I-SPLIT); its local maxima are candidates for a bottleneck
  times        milliseconds of the head (in onnxruntime, as devices run it) and of the tail (in
               PyTorch, as the server does), on one CPU thread of this machine
and for every codec that is measured there
  bytes        of the encoded activation of one photo, to compare with those of the photo itself,
               which is measured as JPEG, WebP and AVIF in several qualities
  agreement    the share of photos on which the top-1 class is still that of the full network
"""
EPILOG: Final = """\
Calibration photos should look like those of the later traffic. A hundred photos of the classes
that you expect are enough to begin with; live traffic refines the numbers. With 350 and more,
refining cuts are tried, too (isplit docs refinement). --data names
  a folder with one subfolder for each class, named by the class's name or id: photos/cat/1.jpg
  a folder of photos, whose classes are then unknown
  a CSV file with lines `file,label`, relative to its folder

examples:
  isplit profile --network torchvision:resnet50 --weights resnet50.safetensors \\
      --data photos/ -o resnet50
  isplit profile --network mypackage.nets:build --classes labels.txt --data photos.csv \\
      --split-points layer2,layer3 -o mynet

A big calibration set is shared by several processes, on one host or several:
  torchrun --nproc-per-node 4 -m isplit_plugin profile --network ... --data ... -o resnet50

The first writes resnet50.profile.safetensors, resnet50.transforms.safetensors with what the
codec dct needs, and resnet50.html with figures for a browser. With --corrector it writes
resnet50.correctors.safetensors, too, with --head-precision int8 resnet50.heads.safetensors.
Next: isplit package with the same --network and --weights.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    data = parser.add_argument_group("calibration photos")
    data.add_argument(
        "--data", required=True, type=Path, metavar="PATH", help="folder or CSV file, see below"
    )
    data.add_argument(
        "--limit",
        type=common.positive_int,
        metavar="N",
        help="use the first N photos of each class only",
    )
    _add_measurement(parser.add_argument_group("what is measured"))
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="NAME",
        help="path of the files to write, without their endings",
    )
    output.add_argument("--name", help="the model's name (default: the last part of --output)")
    output.add_argument("--no-report", action="store_true", help="do not write the HTML page")
    output.add_argument(
        "--show-classes",
        metavar="ID,ID",
        help="classes whose curves the page shows (default: the 5 most frequent)",
    )
    output.add_argument(
        "--json", action="store_true", help="print the summary as JSON instead of tables"
    )


def _add_measurement(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--split-points",
        metavar="A,B",
        help="where to measure codecs (default: at every block output); `all`: everywhere",
    )
    group.add_argument(
        "--codecs",
        metavar="A,B",
        help="codecs to measure, each in all its qualities unless one is named, as in dct@3 "
        "(default: the usual ones); `all`: every one (isplit docs codecs)",
    )
    group.add_argument(
        "--photo-codecs",
        metavar="A,B",
        help="forms in which the photo itself is measured, such as webp@75,jpeg@90 (default: "
        f"{len(PHOTOS)} of JPEG, WebP and AVIF); those that prove hopeless are dropped early",
    )
    group.add_argument(
        "--no-transforms",
        action="store_true",
        help="fit no transforms: leaves out the codec dct, which takes the fewest bytes, and "
        "about half of the time (isplit docs transform-codec)",
    )
    add_corrector_options(group)
    group.add_argument(
        "--head-precision",
        choices=("fp32", "int8"),
        default="fp32",
        help="int8: make heads that compute in int8, and measure and fit everything on what they "
        "put out; agreement is still that with the full network. Faster where the device has "
        "instructions for it (isplit docs codecs); needs onnx and onnxruntime (%(default)s)",
    )
    group.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="share of photos on which the smallest codec of a split point may disagree with the "
        "full network (%(default)s); the profile does not depend on it",
    )
    group.add_argument(
        "--curtail",
        action="store_true",
        help="measure a cut no further once it has missed so many photos that it cannot be within "
        "the tolerance any more: saves time, and its agreement comes out a little too low",
    )
    group.add_argument(
        "--loss",
        type=_losses,
        default=(),
        metavar="SHARE,SHARE",
        help="shares of packets that are lost and not sent again, as on UDP, such as 0.01,0.05: "
        "measures the agreement that is left (isplit docs simulate-before-deployment)",
    )
    group.add_argument(
        "--target",
        choices=("predicted", "true"),
        default="predicted",
        help="whose score the importance is about: the predicted class's, or the true class's, "
        "which needs labels (%(default)s)",
    )
    group.add_argument(
        "--predictors",
        metavar="A,B",
        help="predictors of the best place for a bottleneck to compute besides CUI, such as "
        "kl-linear (see isplit evaluate)",
    )
    group.add_argument(
        "--batch-size",
        type=common.positive_int,
        default=8,
        metavar="N",
        help="photos in one pass: more take more memory (%(default)s)",
    )
    group.add_argument(
        "--threads",
        type=common.positive_int,
        metavar="N",
        help="CPU threads (default: PyTorch's choice); times are always those of one thread",
    )


def _losses(text: str) -> tuple[float, ...]:
    try:
        losses = tuple(float(word) for word in text.split(","))
    except ValueError:
        losses = (0.0,)
    if not all(0 < loss < 1 for loss in losses):
        raise argparse.ArgumentTypeError(
            f"expected shares between 0 and 1, such as 0.01,0.05, got {text!r}"
        )
    return losses


def run(options: argparse.Namespace) -> int:
    from ..network import launched_processes

    with launched_processes() as processes:
        measured = measure(options, processes)
    if processes.is_first:
        _write(options, measured)
    return 0


def _write(options: argparse.Namespace, measured: Measured) -> None:
    profile = measured.profile
    paths = _save(options.output, measured)
    if not options.no_report:
        from ..report import write_report

        paths["report"] = options.output.with_name(f"{options.output.name}.html")
        write_report(paths["report"], profile, shown_classes=measured.shown_classes)
    fits = {} if measured.correctors is None else measured.correctors.fits
    if options.json:
        names = {kind: str(paths[kind]) if kind in paths else None for kind in _FILES}
        trained = {"trained": corrector_summary(fits)} if fits else {}
        common.emit_json(summary(profile, options.tolerance) | names | trained)
    else:
        print(render(profile, options.tolerance))
        if fits:
            print(f"\n{render_correctors(fits)}")
        print(f"\nwrote {' and '.join(map(str, paths.values()))}")


def _save(output: Path, measured: Measured) -> dict[str, Path]:
    """Write the files but the report, and return their paths by kind."""
    from ..network import save_correctors, save_int8_heads
    from ..wire import save_transforms

    def path_of(kind: str) -> Path:
        return output.with_name(f"{output.name}.{kind}.safetensors")

    paths = {"profile": path_of("profile")}
    measured.profile.save(paths["profile"])
    if measured.transforms is not None:
        transforms = measured.transforms.transforms
        paths["transforms"] = path_of("transforms")
        save_transforms(paths["transforms"], tuple(transforms.values()))
        if measured.correctors is not None:
            paths["correctors"] = path_of("correctors")
            save_correctors(paths["correctors"], measured.correctors.correctors, transforms)
    if measured.int8_heads is not None:
        paths["heads"] = path_of("heads")
        save_int8_heads(paths["heads"], measured.int8_heads)
    return paths
