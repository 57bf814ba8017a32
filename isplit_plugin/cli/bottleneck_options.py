"""Options that shape and train a bottleneck: shared by bottleneck and evaluate."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..bottleneck import AutoencoderConfig, Budget


def add_bottleneck(parser: argparse.ArgumentParser) -> None:
    """Add the shape of a bottleneck and its training budget."""
    shape = parser.add_argument_group("bottleneck (defaults: the paper's)")
    shape.add_argument(
        "--width",
        type=int,
        metavar="N",
        help="channels of the inner layers; the code has 2N (C / 8)",
    )
    shape.add_argument(
        "--stride",
        type=int,
        default=4,
        metavar="S",
        help="total subsampling, a power of two (%(default)s)",
    )
    shape.add_argument(
        "--depth", type=int, default=2, metavar="D", help="layers on each side (%(default)s)"
    )
    budget = parser.add_argument_group("training budget")
    budget.add_argument(
        "--epochs",
        type=int,
        default=20,
        metavar="N",
        help="with the bottleneck alone (%(default)s)",
    )
    budget.add_argument(
        "--whole-epochs",
        type=int,
        default=0,
        metavar="N",
        help="then with the whole network (%(default)s)",
    )
    budget.add_argument(
        "--images", type=int, metavar="N", help="train on at most N photos, classes balanced"
    )
    budget.add_argument(
        "--patience", type=int, default=5, metavar="N", help="epochs without progress (%(default)s)"
    )
    budget.add_argument("--batch-size", type=int, default=64, metavar="N", help="%(default)s")
    budget.add_argument(
        "--lr", type=float, default=3e-3, metavar="R", help="AdamW, cosine (%(default)s)"
    )
    budget.add_argument(
        "--seed", type=int, default=0, metavar="N", help="the first seed (%(default)s)"
    )
    budget.add_argument(
        "--device", metavar="NAME", help="cpu or cuda (default: cuda where there is one)"
    )
    budget.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)"
    )


def config_of(options: argparse.Namespace) -> AutoencoderConfig:
    """The shape that the options name."""
    from ..bottleneck import AutoencoderConfig

    return AutoencoderConfig(width=options.width, stride=options.stride, depth=options.depth)


def budget_of(options: argparse.Namespace) -> Budget:
    """The budget that the options name. Raises ArtifactError."""
    from ..bottleneck import Budget

    return Budget(
        epochs=options.epochs,
        whole_epochs=options.whole_epochs,
        images=options.images,
        patience=options.patience,
        batch_size=options.batch_size,
        lr=options.lr,
    )


def names_of(text: str | None) -> tuple[str, ...] | None:
    """Comma-separated names; ``None`` where nothing was given."""
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())
