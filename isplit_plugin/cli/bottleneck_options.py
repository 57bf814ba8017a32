"""Options and photos of the commands that train bottlenecks: bottleneck and evaluate."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..bottleneck import AutoencoderConfig, Budget, Photos
    from ..network import LoadedNetwork


def add_bottleneck(parser: argparse.ArgumentParser) -> None:
    """Add the options of the autoencoder and of its training."""
    _add_autoencoder(parser)
    _add_training(parser)


def config_of(options: argparse.Namespace) -> AutoencoderConfig:
    """The size of the autoencoder that the options describe."""
    from ..bottleneck import AutoencoderConfig

    return AutoencoderConfig(width=options.width, stride=options.stride, depth=options.depth)


def budget_of(options: argparse.Namespace) -> Budget:
    """The training budget that the options describe. Raises ArtifactError."""
    from ..bottleneck import Budget

    return Budget(
        epochs=options.epochs,
        finetune_epochs=options.finetune_epochs,
        images=options.images,
        patience=options.patience,
        batch_size=options.batch_size,
        lr=options.lr,
        start=options.start,
    )


def names_of(text: str | None) -> tuple[str, ...] | None:
    """Comma-separated names; ``None`` if the option is missing."""
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())


def load_photos(files: Iterable[tuple[Path, int | None]], loaded: LoadedNetwork) -> Photos:
    """Read photos for a network, and name those that cannot be read on stderr."""
    from ..bottleneck import Photos

    photos = Photos(files, loaded.preprocessing, len(loaded.classes))
    if photos.skipped:
        print(
            f"skipped {len(photos.skipped)} unreadable photos: {photos.skipped_names()}",
            file=sys.stderr,
        )
    return photos


def _add_autoencoder(parser: argparse.ArgumentParser) -> None:
    autoencoder = parser.add_argument_group("autoencoder (the defaults are the paper's)")
    autoencoder.add_argument(
        "--width",
        type=int,
        metavar="N",
        help="channels of the inner layers; the code has 2N channels (default: channels / 8)",
    )
    autoencoder.add_argument(
        "--stride",
        type=int,
        default=4,
        metavar="S",
        help="total subsampling on each axis, a power of two (default: %(default)s)",
    )
    autoencoder.add_argument(
        "--depth",
        type=int,
        default=2,
        metavar="D",
        help="layers of the encoder and of the decoder (default: %(default)s)",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    training = parser.add_argument_group("training")
    training.add_argument(
        "--epochs",
        type=int,
        default=20,
        metavar="N",
        help="epochs that train the autoencoder alone (default: %(default)s)",
    )
    training.add_argument(
        "--finetune-epochs",
        type=int,
        default=0,
        metavar="N",
        help="further epochs that train the whole network (default: %(default)s)",
    )
    training.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="train on at most N photos, balanced over the classes (default: all)",
    )
    training.add_argument(
        "--patience",
        type=int,
        default=5,
        metavar="N",
        help="stop after N epochs without improvement (default: %(default)s)",
    )
    training.add_argument(
        "--batch-size",
        type=int,
        default=64,
        metavar="N",
        help="photos in a batch (default: %(default)s)",
    )
    training.add_argument(
        "--lr",
        type=float,
        default=3e-3,
        metavar="RATE",
        help="highest learning rate (default: %(default)s)",
    )
    training.add_argument(
        "--start",
        choices=("closed-form", "noise"),
        default="closed-form",
        help="what the autoencoder begins with: the linear code that the gradients say is best, or "
        "random weights (default: %(default)s)",
    )
    training.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed (default: %(default)s)"
    )
    training.add_argument(
        "--device", metavar="NAME", help="cpu or cuda (default: cuda if available)"
    )
    training.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)"
    )
