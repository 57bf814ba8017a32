"""Options that name a network: weights, class names and preprocessing."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import common

if TYPE_CHECKING:
    from ..network import CapturedNetwork, LoadedNetwork

# Factories of this package, which load weights themselves.
_WITH_WEIGHTS: Final = "isplit_plugin.network.zoo:"
_FACTORY: Final = re.compile(r"[\w.]+:[\w.]+")
"""The form of a factory's spec. Others are refused, so that nothing is said of their weights."""
_OVERRIDES: Final = ("classes", "input_size", "resize", "interpolation", "mean", "std")


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add ``--network``, ``--weights`` and the options that override what the network says."""
    group = parser.add_argument_group(
        "network",
        "A network of torchvision or timm, or one that a factory returns, comes with its\n"
        "preprocessing and class names. Options override them.",
    )
    group.add_argument(
        "--network",
        required=True,
        metavar="SPEC",
        help="torchvision:NAME, timm:NAME, package.module:factory, or a .pt2 file "
        "(only one that you trust: loading it runs code in it)",
    )
    group.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help=".safetensors, or a PyTorch state dict (.pt, .pth). Nothing is downloaded: without "
        "this file, networks of torchvision and timm have random weights",
    )
    group.add_argument(
        "--classes",
        type=_classes,
        metavar="FILE|N",
        help="class names in the order of the scores: one a line, or a JSON list; "
        "or how many classes there are, whose names are then numbers",
    )
    group.add_argument(
        "--input-size", type=int, metavar="PIXELS", help="side of the square that the network sees"
    )
    group.add_argument(
        "--resize",
        type=int,
        metavar="PIXELS",
        help="shorter side of the photo before it is cropped to that square; 0: do not resize",
    )
    group.add_argument(
        "--interpolation",
        choices=("bilinear", "bicubic", "nearest"),
        help="how the photo is resized",
    )
    group.add_argument(
        "--mean",
        type=_numbers,
        metavar="R,G,B",
        help="what is subtracted from pixels scaled to [0, 1]",
    )
    group.add_argument(
        "--std", type=_numbers, metavar="R,G,B", help="what they are then divided by"
    )


def load(options: argparse.Namespace) -> tuple[LoadedNetwork, CapturedNetwork]:
    """Load and capture the network that the options name. Raises what ``load_network`` raises."""
    from ..network import load_network

    if options.weights is None:
        _warn_of_random_weights(options)
    overrides: dict[str, Any] = {
        name: getattr(options, name) for name in _OVERRIDES if getattr(options, name) is not None
    }
    loaded = load_network(options.network, options.weights, **overrides)
    return loaded, loaded.capture()


def _warn_of_random_weights(options: argparse.Namespace) -> None:
    network: str = options.network
    if network.startswith(("torchvision:", "timm:")):
        common.note(
            options, f"warning: {network} has random weights, because there is no --weights"
        )
    elif _FACTORY.fullmatch(network) and not network.startswith(_WITH_WEIGHTS):
        common.note(
            options,
            f"warning: there is no --weights: unless {network} sets weights itself, they are random",
        )


def _classes(text: str) -> Path | tuple[str, ...]:
    """A file of class names, or so many classes with their ids as names."""
    path = Path(text)
    if text.isascii() and text.isdigit() and int(text) > 0 and not path.exists():
        return tuple(str(class_id) for class_id in range(int(text)))
    return path


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers with commas, such as 0.5,0.5,0.5, got {text!r}"
        ) from None
