"""``isplit package``: the archive for TorchServe and the bundle for the device."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..schema import TRANSFORM_CODEC, Cut, Manifest
from ..terminal import table
from . import common
from .network_options import add_network, load

if TYPE_CHECKING:
    from ..network import Corrector, Int8Heads
    from ..profile import Profile
    from ..wire import Transform

HELP: Final = "build the .mar for TorchServe and the head bundle for the device"
DESCRIPTION: Final = """\
Write two files that belong together (one network hash):
  NAME.mar        for TorchServe: the weights, the profile, and a handler that
                  serves every deployed split point
  NAME.head.zip   for the device: an ONNX head for each deployed split point, which
                  share their weights
and isplit.mar, the recommendation endpoint, which is the same for all models.
The files of a version other than 1.0 are NAME-VERSION.mar and
NAME-VERSION.head.zip, so that several versions can lie in one folder.
"""
EPILOG: Final = """\
examples:
  isplit package --network torchvision:resnet50 --weights resnet50.safetensors \\
      --profile resnet50.profile.safetensors --split-points layer2,layer3,layer4 --name resnet50
  isplit package --network torchvision:resnet50 --weights better.safetensors \\
      --profile better.profile.safetensors --name resnet50 --version 2.0
  isplit package ... --set tail.sampling=0.1 --set torchserve.batchSize=8
Without --split-points, those points are deployed where a split wins: where, on some link of 0.5
to 50 Mbit/s and some device up to 64 times slower than the machine that made the profile, a
faithful cut (at least 99 % agreement) is faster than the best photo and than the whole network
on the device. If there is none, those that beat the photo (isplit docs codecs).
Settings: isplit docs settings. Those of one machine can be set where the server is
started, too (isplit serve --set).
"""


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument(
        "--profile", required=True, type=Path, metavar="FILE", help="written by isplit profile"
    )
    transforms = parser.add_mutually_exclusive_group()
    transforms.add_argument(
        "--transforms",
        type=Path,
        metavar="FILE",
        help="for the codec dct, written by isplit profile (default: the file beside the profile)",
    )
    transforms.add_argument(
        "--no-transforms", action="store_true", help="serve without the codec dct"
    )
    correctors = parser.add_mutually_exclusive_group()
    correctors.add_argument(
        "--correctors",
        type=Path,
        metavar="FILE",
        help="written by isplit profile --corrector (default: the file beside the profile)",
    )
    correctors.add_argument(
        "--no-correctors",
        action="store_true",
        help="serve without correctors: where dct was measured with one, it is served but not "
        "recommended",
    )
    parser.add_argument(
        "--int8-heads",
        type=Path,
        metavar="FILE",
        help="written by isplit profile --head-precision int8, which a profile with such heads "
        "needs (default: the file beside the profile)",
    )
    parser.add_argument("--name", help="the model's name (default: the profile's)")
    parser.add_argument(
        "--version",
        default="1.0",
        dest="model_version",
        metavar="V",
        help="of the model; give another network another version (default: %(default)s)",
    )
    parser.add_argument("--split-points", metavar="A,B", help="split points to deploy")
    parser.add_argument(
        "--bottleneck",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="deploy a trained bottleneck too (written by isplit bottleneck; may be repeated)",
    )
    parser.add_argument(
        "--default",
        metavar="CUT",
        help="the cut that a client starts with, such as layer3:uint8+zstd",
    )
    parser.add_argument(
        "--pt2-heads",
        action="store_true",
        help="add PyTorch heads (.pt2), which are code: for trusted devices",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="assignments",
        metavar="KEY=VALUE",
        help="a setting of the archive, tail.KEY or torchserve.KEY (may be repeated)",
    )
    parser.add_argument(
        "--model-config",
        type=Path,
        metavar="FILE",
        help="settings in YAML, merged into the archive's model-config.yaml",
    )
    parser.add_argument(
        "--no-output-head",
        action="store_true",
        help="leave out the head at output, the whole network",
    )
    parser.add_argument(
        "--bundle-precision",
        choices=("fp32", "fp16"),
        default="fp32",
        help="of the weights in the head bundle: fp16 takes half the space; devices compute in fp32 "
        "all the same, and what that changes is measured and printed (%(default)s)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("model_store"),
        metavar="DIR",
        help="default: %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(options: argparse.Namespace) -> int:
    from ..profile import Profile
    from ..serving.packaging import package

    default = Cut.parse(options.default) if options.default else None
    profile = Profile.load(options.profile)
    _config(options)  # a wrong setting is told before minutes of work
    common.make_folder(options.output)
    common.note(options, f"capturing {options.network} ...")
    loaded, net = load(options)
    deployed = (
        [w.strip() for w in options.split_points.split(",")] if options.split_points else None
    )
    bottlenecks = []
    if options.bottleneck:
        from ..bottleneck import load_bottleneck

        bottlenecks = [
            load_bottleneck(path, net, loaded.preprocessing) for path in options.bottleneck
        ]
    transforms = _transforms(options, profile)
    correctors = _correctors(options, profile, transforms)
    int8_heads = _int8_heads(options, profile)
    common.note(
        options,
        "writing the archive and a head for each split point (minutes for a large network) ...",
    )
    built = package(
        net,
        profile=profile,
        preprocessing=loaded.preprocessing,
        classes=loaded.classes,
        model=options.name or profile.model,
        version=options.model_version,
        deployed=deployed,
        default=default,
        bottlenecks=bottlenecks,
        transforms=transforms,
        correctors=correctors,
        int8_heads=int8_heads,
        pt2=options.pt2_heads,
        include_output=not options.no_output_head,
        bundle_precision=options.bundle_precision,
        config=_config(options),
        out_dir=options.output,
    )
    warnings = [*built.warnings, *_larger_than_photo(profile, built.manifest)]
    files = {"archive": built.archive, "head_bundle": built.bundle, "endpoint": built.endpoint}
    if options.json:
        common.emit_json(
            {
                **{name: str(path) for name, path in files.items()},
                "network_hash": built.manifest.network_hash,
                "deployed": built.manifest.deployed,
                "default": str(built.manifest.default),
                "fp16_differences": dict(built.differences),
                "warnings": warnings,
            }
        )
        return 0
    for warning in warnings:
        print(f"warning: {warning}")
    print(
        f"{built.manifest.model} {built.manifest.version}: deployed at "
        f"{', '.join(built.manifest.deployed)}; a client starts with {built.manifest.default}"
    )
    print(
        table(("file", "MB"), ((str(p), f"{p.stat().st_size / 1e6:.1f}") for p in files.values()))
    )
    if built.differences:
        print(
            "weights as fp16 change what a head puts out by at most "
            f"{max(built.differences.values()):.2%} of the largest value (random inputs)"
        )
    print(f"next: isplit serve --model-store {options.output} {built.manifest.model}")
    if built.manifest.version != "1.0":
        print(f"or, beside other versions of a server that runs: isplit register {built.archive}")
    return 0


def _config(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of the options, in the form of a model-config.yaml.

    Raises:
        ServingError: a setting is unknown, or its value cannot be used.
    """
    from ..errors import ServingError
    from ..serving.settings import TailSettings, check_torchserve_keys
    from ..serving.settings_file import merged, parse_assignments, read_yaml

    config: dict[str, Any] = {}
    if options.model_config is not None:
        config = read_yaml(options.model_config)
        check_torchserve_keys(config, str(options.model_config))
        TailSettings.of_archive(config, str(options.model_config))
    assigned = parse_assignments(options.assignments)
    for name in assigned:
        if name not in ("tail", "torchserve"):
            raise ServingError(
                f"--set {name}: expected tail.KEY or torchserve.KEY; settings of the endpoint and "
                "of one machine are set where the server is started (isplit serve --set)"
            )
    over = {**assigned.get("torchserve", {})}
    if "tail" in assigned:
        over["isplit"] = assigned["tail"]
    check_torchserve_keys(over, "--set torchserve")
    TailSettings.of_archive(over, "--set")
    return merged(config, over)


def _transforms(options: argparse.Namespace, profile: Profile) -> tuple[Transform, ...]:
    """Those of ``--transforms``, or of the file beside a profile that has measured with them.

    Raises ArtifactError.
    """
    from ..wire import load_transforms

    if options.no_transforms:
        return ()
    if options.transforms is not None:
        return load_transforms(options.transforms)
    if not any(m.codec == TRANSFORM_CODEC for m in profile.measurements):
        return ()  # a file of transforms there is of an earlier profile
    beside = _beside(options.profile, "transforms")
    return () if beside is None else load_transforms(beside)


def _correctors(
    options: argparse.Namespace, profile: Profile, transforms: Sequence[Transform]
) -> dict[str, Corrector]:
    """Those of ``--correctors``, or of the file beside a profile that has measured with them.

    Raises ArtifactError, NetworkMismatchError.
    """
    from ..network import load_correctors

    fitted = {transform.split_point: transform for transform in transforms}
    if options.no_correctors:
        return {}
    if options.correctors is not None:
        return load_correctors(options.correctors, fitted)
    if not profile.correctors or not fitted:
        return {}
    beside = _beside(options.profile, "correctors")
    return {} if beside is None else load_correctors(beside, fitted)


def _int8_heads(options: argparse.Namespace, profile: Profile) -> Int8Heads | None:
    """Those of ``--int8-heads``, or of the file beside a profile that has measured with them.

    Raises ArtifactError, NetworkMismatchError.
    """
    from ..network import load_int8_heads

    if not profile.int8_heads:
        return None
    file = options.int8_heads or _beside(options.profile, "heads")
    return None if file is None else load_int8_heads(file, profile.network_hash)


def _beside(profile: Path, kind: str) -> Path | None:
    """The file of another kind that ``isplit profile`` wrote with a profile, if it is there."""
    ending = ".profile.safetensors"
    if not profile.name.endswith(ending):
        return None
    file = profile.with_name(f"{profile.name.removesuffix(ending)}.{kind}.safetensors")
    return file if file.is_file() else None


def _larger_than_photo(profile: Profile, manifest: Manifest) -> list[str]:
    """A warning if the default cut sends more than the best faithful photo."""
    from ..advice import best_photo

    default = profile.measurement(manifest.default)
    photo = best_photo(profile)
    if default is None or photo is None or default.nbytes <= photo.measurement.nbytes:
        return []
    return [
        f"the default cut, {manifest.default}, is {default.nbytes:,.0f} bytes an image, "
        f"{default.nbytes / photo.measurement.nbytes:.1f} times the best photo; "
        f"--default {photo.measurement.cut} or a later split point sends less"
    ]
