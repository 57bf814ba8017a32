"""``isplit profile``: measure a network on calibration photos."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import DataError, QueryError, UnknownClassError
from ..photo_codecs import PHOTOS
from ..schema import TRANSFORM_CODEC
from . import common
from .network_options import add_network, load
from .profile_summary import render, summary
from .progress_lines import ProgressLines

if TYPE_CHECKING:
    from ..network import CapturedNetwork, FittedTransforms, LabelledPhoto, LoadedNetwork
    from ..profile import Profile

HELP: Final = "measure a network on calibration photos"
DESCRIPTION: Final = """\
Measure a network on calibration photos and write a profile: what is known about each place
where the network can be cut, before there is any traffic. `isplit package` needs it, and the
server's first recommendations rest on it.

At every split point, a profile holds
  importance   how strongly the score of the predicted class depends on the activation there
               (CUI of I-SPLIT); its local maxima are candidates for a bottleneck
  times        milliseconds of the head and of the tail, on one CPU thread of this machine
and for every codec that is measured there
  bytes        of the encoded activation of one photo, to compare with those of the photo itself,
               which is measured as JPEG, WebP and AVIF in several qualities
  agreement    the share of photos on which the top-1 class is still that of the full network
"""
EPILOG: Final = """\
Calibration photos should look like those of the later traffic. A hundred photos of the classes
that you expect are enough to begin with; live traffic refines the numbers. --data names
  a folder with one subfolder for each class, named by the class's name or id: photos/cat/1.jpg
  a folder of photos, whose classes are then unknown
  a CSV file with lines `file,label`, relative to its folder

examples:
  isplit profile --network torchvision:resnet50 --weights resnet50.safetensors \\
      --data photos/ -o resnet50
  isplit profile --network mypackage.nets:build --classes labels.txt --data photos.csv \\
      --split-points layer2,layer3 -o mynet

The first writes resnet50.profile.safetensors, resnet50.transforms.safetensors with what the
codec dct needs, and resnet50.html with figures for a browser.
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
        help="leave out the codec dct, which takes the fewest bytes: without it no transform is "
        "fitted at each split point, in about half the time "
        "(isplit docs transform-codec)",
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


def run(options: argparse.Namespace) -> int:
    from ..wire import codec_names

    if not 0 <= options.tolerance <= 1:
        raise QueryError(f"--tolerance: expected 0 to 1, got {options.tolerance}")
    codecs = _codecs(options.codecs, codec_names())
    shown_classes = common.class_ids(options.show_classes) if options.show_classes else None
    common.make_folder(options.output.parent)
    common.note(options, f"capturing {options.network} ...")
    loaded, net = load(options)
    for class_id in shown_classes or ():
        if class_id >= len(loaded.classes):
            raise UnknownClassError.of(class_id, (f"0 to {len(loaded.classes) - 1}",))
    profile, transforms = _measure(options, loaded, net, codecs)
    profile_path = options.output.with_name(f"{options.output.name}.profile.safetensors")
    profile.save(profile_path)
    transforms_path = None
    if transforms is not None:
        from ..wire import save_transforms

        transforms_path = options.output.with_name(f"{options.output.name}.transforms.safetensors")
        save_transforms(transforms_path, tuple(transforms.transforms.values()))
    page_path = None
    if not options.no_report:
        from ..report import write_report

        page_path = options.output.with_name(f"{options.output.name}.html")
        write_report(page_path, profile, shown_classes=shown_classes)
    paths = {"profile": profile_path, "transforms": transforms_path, "report": page_path}
    if options.json:
        names = {kind: path and str(path) for kind, path in paths.items()}
        common.emit_json(summary(profile, options.tolerance) | names)
    else:
        print(render(profile, options.tolerance))
        print(f"\nwrote {' and '.join(str(path) for path in paths.values() if path)}")
    return 0


def _measure(
    options: argparse.Namespace, loaded: LoadedNetwork, net: CapturedNetwork, codecs: Sequence[str]
) -> tuple[Profile, FittedTransforms | None]:
    from ..network import calibration_folder, profile

    images = calibration_folder(options.data, loaded.classes, limit_per_class=options.limit)
    transforms = _transforms(options, loaded, net, images)
    with ExitStack() as stack:
        progress: bool | ProgressLines = not options.json
        if progress and not sys.stderr.isatty():
            progress = stack.enter_context(ProgressLines())
        common.note(
            options, f"measuring on {len(images)} photos, then the times of head and tail ..."
        )
        measured = profile(
            net,
            images,
            preprocessing=loaded.preprocessing,
            classes=loaded.classes,
            model=options.name or options.output.name,
            split_points=_split_points(options.split_points, net),
            codecs=codecs,
            photos=PHOTOS if options.photo_codecs is None else _words(options.photo_codecs),
            target=options.target,
            batch_size=options.batch_size,
            threads=options.threads,
            progress=progress,
            transforms=transforms,
        )
    if not options.predictors:
        return measured, transforms
    from ..bottleneck import Photos
    from ..evaluation import profile_predictions

    photos = Photos(images, loaded.preprocessing, len(loaded.classes))
    predictions = profile_predictions(net, photos, _words(options.predictors))
    return replace(measured, predictions=predictions), transforms


def _transforms(
    options: argparse.Namespace,
    loaded: LoadedNetwork,
    net: CapturedNetwork,
    images: Sequence[LabelledPhoto],
) -> FittedTransforms | None:
    """The transforms for the codec ``dct``; ``None`` where none are wanted or photos are few."""
    from ..network import MIN_PHOTOS, fit_transforms

    if options.no_transforms or not _has_transform_codec(options.codecs):
        return None
    if len(images) < MIN_PHOTOS:
        common.note(
            options,
            f"no transforms for the codec dct: they take at least {MIN_PHOTOS} photos, "
            f"got {len(images)}",
        )
        return None
    common.note(options, f"fitting transforms for the codec dct on {len(images)} photos ...")
    with ExitStack() as stack:
        progress: bool | ProgressLines = not options.json
        if progress and not sys.stderr.isatty():
            lines = ProgressLines(
                doing="fitting transforms", things="steps", afterwards="fitting transforms"
            )
            progress = stack.enter_context(lines)
        try:
            return fit_transforms(
                net,
                images,
                preprocessing=loaded.preprocessing,
                split_points=_split_points(options.split_points, net),
                batch_size=options.batch_size,
                threads=options.threads,
                progress=progress,
            )
        except DataError as error:  # too few photos can be read: they are reported later
            common.note(options, f"no transforms for the codec dct: {error.message}")
            return None


def _has_transform_codec(text: str | None) -> bool:
    """Whether the codec ``dct`` is measured: by default, with all codecs, and where it is named."""
    if text is None or text == "all":
        return True
    return any(word.partition("@")[0] == TRANSFORM_CODEC for word in _words(text))


def _split_points(text: str | None, net: CapturedNetwork) -> list[str] | None:
    if text == "all":
        return [point.name for point in net.split_points]
    return None if text is None else _words(text)


def _codecs(text: str | None, names: Sequence[str]) -> Sequence[str]:
    """The codecs and codings to measure, of codecs with these names. Raises UnknownCodecError."""
    from ..wire import CODECS, is_codec, unknown_codec

    if text is None:
        return CODECS
    if text == "all":
        return names
    codecs = _words(text)
    for codec in codecs:
        if codec not in (*names, TRANSFORM_CODEC) and not is_codec(codec):
            raise unknown_codec(codec, CODECS, names)
    return codecs


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]
