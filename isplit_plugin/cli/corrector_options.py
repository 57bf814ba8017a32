"""Correctors at the command line: training them in ``isplit profile``, and what they bring."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ..errors import QueryError
from ..terminal import table
from . import common
from .progress_lines import ProgressLines

if TYPE_CHECKING:
    from ..network import (
        CapturedNetwork,
        CorrectorFit,
        FittedCorrectors,
        FittedTransforms,
        LabelledPhoto,
        LoadedNetwork,
        Processes,
    )


def add_corrector_options(group: argparse._ArgumentGroup) -> None:
    """The options of ``isplit profile`` that train correctors."""
    group.add_argument(
        "--corrector",
        type=common.positive_seconds,
        metavar="SECONDS",
        help="train a corrector for the codec dct at each split point, for SECONDS each (300 "
        "and more, much more for a large network on few cores: the steps decide). The server then "
        "undoes a part of what the code has lost, and the device does nothing more "
        "(isplit docs transform-codec)",
    )
    group.add_argument(
        "--corrector-steps",
        type=common.positive_int,
        metavar="N",
        help="the steps of each training, instead of --corrector: on one machine, equal steps and "
        "photos give equal correctors",
    )


def check_corrector_options(options: argparse.Namespace) -> None:
    """Raise QueryError where both a time and steps are given, or no transforms are fitted."""
    wanted = options.corrector is not None or options.corrector_steps is not None
    if options.corrector is not None and options.corrector_steps is not None:
        raise QueryError("expected --corrector or --corrector-steps, got both")
    if wanted and options.no_transforms:
        raise QueryError(
            "a corrector stands behind the codec dct: leave out --no-transforms or --corrector"
        )


def trained_correctors(
    options: argparse.Namespace,
    loaded: LoadedNetwork,
    net: CapturedNetwork,
    images: Sequence[LabelledPhoto],
    transforms: FittedTransforms | None,
    *,
    processes: Processes,
) -> FittedCorrectors | None:
    """The correctors; ``None`` where none are wanted, or there are no transforms."""
    from ..network import fit_correctors

    if options.corrector is None and options.corrector_steps is None:
        return None
    if transforms is None:
        common.note(options, "no correctors: there is no transform that they could stand behind")
        return None
    count = len(transforms.transforms)
    budget = {"seconds": options.corrector} if options.corrector else {}
    each = (
        f"{options.corrector:g} s" if options.corrector else f"3 x {options.corrector_steps} steps"
    )
    common.note(
        options, f"training correctors on {len(images)} photos: {count} split points, {each} each"
    )
    with ExitStack() as stack:
        progress: bool | ProgressLines = not (options.json or options.quiet)
        if progress and not sys.stderr.isatty():
            lines = ProgressLines(
                doing="training correctors", things="percent", afterwards="checking correctors"
            )
            progress = stack.enter_context(lines)
        return fit_correctors(
            net,
            images,
            transforms,
            preprocessing=loaded.preprocessing,
            **budget,
            steps=options.corrector_steps,
            threads=options.threads,
            progress=progress,
            processes=processes,
        )


def corrector_summary(fits: Mapping[str, CorrectorFit]) -> dict[str, Any]:
    """What correctors bring, as JSON types."""
    return {
        name: {"steps": fit.steps, "divergence": list(fit.before), "corrected": list(fit.after)}
        for name, fit in fits.items()
    }


def render_correctors(fits: Mapping[str, CorrectorFit]) -> str:
    """A table of what correctors bring at each quality."""
    qualities = len(next(iter(fits.values())).before)
    rows: list[tuple[object, ...]] = []
    for name, fit in fits.items():
        rows.append((name, fit.steps, "without", *(f"{each:.4f}" for each in fit.before)))
        pairs = zip(fit.before, fit.after, strict=True)
        used = (f"{after:.4f}" if after < before else "off" for before, after in pairs)
        rows.append(("", "", "with", *used))
    header = ("split point", "steps", "corrector", *(f"dct@{q}" for q in range(qualities)))
    title = (
        "divergence of the answers from the full network's, in nats, on photos that the corrector "
        "has not seen"
    )
    return "\n".join([title, table(header, rows)])
