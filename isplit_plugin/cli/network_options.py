"""Options that name a network, its weights, its preprocessing and its classes: shared by profile and package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import common

if TYPE_CHECKING:
    from ..network import CapturedNetwork, LoadedNetwork


WEIGHTS: Final = ".safetensors, or a state dict (.pt, .pth); without, torchvision:NAME and timm:NAME are random numbers"


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add ``--network``, ``--weights`` and the overrides of preprocessing and classes."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--network",
        required=True,
        metavar="SPEC",
        help="torchvision:NAME, timm:NAME, package.module:factory, or a .pt2 file that you trust (it is code)",
    )
    group.add_argument("--weights", type=Path, metavar="FILE", help=WEIGHTS)
    group.add_argument(
        "--classes", type=Path, metavar="FILE", help="class names: one a line, or a JSON list"
    )
    group.add_argument(
        "--input-size",
        type=int,
        metavar="PIXELS",
        help="crop, where the network's own is not wanted",
    )
    group.add_argument(
        "--resize", type=int, metavar="PIXELS", help="shorter side before the crop; 0: not resized"
    )
    group.add_argument(
        "--interpolation",
        choices=("bilinear", "bicubic", "nearest"),
        help="of the resize, where it is another",
    )
    group.add_argument("--mean", type=_floats, metavar="R,G,B", help="of inputs scaled to [0, 1]")
    group.add_argument("--std", type=_floats, metavar="R,G,B", help="of inputs scaled to [0, 1]")


def _floats(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers with commas, such as 0.5,0.5,0.5, got {text!r}"
        ) from None


def load(options: argparse.Namespace) -> tuple[LoadedNetwork, CapturedNetwork]:
    """Load and capture the network that the options name."""
    from ..network import load_network

    if options.weights is None and options.network.startswith(("torchvision:", "timm:")):
        common.note(
            options,
            f"warning: no --weights: {options.network} is made of random numbers, nothing is downloaded",
        )
    overrides: dict[str, Any] = {
        name: value
        for name in ("classes", "input_size", "resize", "interpolation", "mean", "std")
        if (value := getattr(options, name)) is not None
    }
    loaded = load_network(options.network, options.weights, **overrides)
    return loaded, loaded.capture()
