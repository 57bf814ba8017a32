"""What `isplit profile` measures, in one process or in several that torchrun started."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import DataError, IsplitError, QueryError, UnknownClassError
from ..photo_codecs import PHOTOS
from ..schema import TRANSFORM_CODEC
from . import common
from .corrector_options import check_corrector_options, trained_correctors
from .network_options import load
from .progress_lines import ProgressLines

if TYPE_CHECKING:
    from ..network import (
        CapturedNetwork,
        FittedCorrectors,
        FittedTransforms,
        Int8Heads,
        LabelledPhoto,
        LoadedNetwork,
        Processes,
    )
    from ..profile import Profile


@dataclass(frozen=True, slots=True)
class Measured:
    """Profile, what was fitted for it, and the classes whose curves the page shows."""

    profile: Profile
    transforms: FittedTransforms | None
    correctors: FittedCorrectors | None
    int8_heads: Int8Heads | None
    shown_classes: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What is measured: the network, the photos, the codecs; and the classes that are shown."""

    loaded: LoadedNetwork
    net: CapturedNetwork
    images: Sequence[LabelledPhoto]
    codecs: Sequence[str]
    shown_classes: tuple[int, ...] | None


def measure(options: argparse.Namespace, processes: Processes) -> Measured:
    """Measure what the options say; every process gets the same.

    An error that all processes meet, or one of them before the work begins, is the first one's to
    report; a later one, that of the process that meets it.
    """
    options.quiet = not processes.is_first
    prepared = _prepared(options, processes)
    try:
        int8_heads = _int8_heads(options, prepared, processes)
        profile, transforms, correctors = _measure(options, prepared, processes, int8_heads)
    except IsplitError as error:
        if processes.count > 1:
            error.message = f"{processes.name}: {error.message}"
        raise
    return Measured(profile, transforms, correctors, int8_heads, prepared.shown_classes)


def _prepared(options: argparse.Namespace, processes: Processes) -> _Prepared:
    """Network and photos. All processes have the same, or end; the first says why."""
    from ..network import calibration_folder
    from ..wire import codec_names
    from . import exit_code

    try:
        with processes.agreed() as facts:
            if not 0 <= options.tolerance <= 1:
                raise QueryError(f"--tolerance: expected 0 to 1, got {options.tolerance}")
            check_corrector_options(options)
            _check_head_precision(options, processes)
            codecs = _codecs(options.codecs, codec_names())
            shown = common.class_ids(options.show_classes) if options.show_classes else ()
            if processes.is_first:
                common.make_folder(options.output.parent)
            if importlib.util.find_spec("onnxruntime") is None:
                common.note(
                    options,
                    "warning: head times will be those of PyTorch, because onnxruntime, in which "
                    "devices run heads, is not installed: pip install 'isplit-plugin[onnx]'",
                )
            common.note(options, f"capturing {options.network} ...")
            loaded, net = load(options)
            for class_id in shown:
                if class_id >= len(loaded.classes):
                    raise UnknownClassError.of(class_id, (f"0 to {len(loaded.classes) - 1}",))
            images = calibration_folder(options.data, loaded.classes, limit_per_class=options.limit)
            if processes.count > 1:
                facts.extend(_facts(loaded, net, images))
    except IsplitError as error:
        if processes.is_first:
            raise
        raise SystemExit(exit_code(error)) from error
    return _Prepared(loaded, net, images, codecs, shown or None)


def _facts(
    loaded: LoadedNetwork, net: CapturedNetwork, images: Sequence[LabelledPhoto]
) -> tuple[str, ...]:
    """What processes on several hosts must have in common: program, network and photos."""
    names = "\n".join(f"{path.name} {class_id}" for path, class_id in images)
    return (
        f"isplit {__version__}",
        f"network {net.network_hash(loaded.preprocessing)[:16]}",
        f"{len(images)} photos with names {hashlib.sha256(names.encode()).hexdigest()[:16]}",
    )


def _measure(
    options: argparse.Namespace,
    prepared: _Prepared,
    processes: Processes,
    int8_heads: Int8Heads | None,
) -> tuple[Profile, FittedTransforms | None, FittedCorrectors | None]:
    from ..network import profile

    loaded, net, images = prepared.loaded, prepared.net, prepared.images
    transforms = _transforms(options, prepared, processes, int8_heads)
    correctors = trained_correctors(
        options, prepared.loaded, prepared.net, prepared.images, transforms, processes=processes
    )
    with ExitStack() as stack:
        progress: bool | ProgressLines = not (options.json or options.quiet)
        if progress and not sys.stderr.isatty():
            progress = stack.enter_context(ProgressLines())
        common.note(
            options,
            f"measuring on {_count(images, processes)}, then the times of head and tail ...",
        )
        measured = profile(
            net,
            images,
            preprocessing=loaded.preprocessing,
            classes=loaded.classes,
            model=options.name or options.output.name,
            split_points=_split_points(options.split_points, net),
            codecs=prepared.codecs,
            photos=PHOTOS if options.photo_codecs is None else _words(options.photo_codecs),
            target=options.target,
            batch_size=options.batch_size,
            threads=options.threads,
            progress=progress,
            transforms=transforms,
            correctors=correctors,
            processes=processes,
            curtail=options.tolerance if options.curtail else None,
            losses=options.loss,
            device_heads=True,
            int8_heads=int8_heads,
        )
    if not (options.predictors and processes.is_first):
        return measured, transforms, correctors
    from ..bottleneck import Photos
    from ..evaluation import profile_predictions

    photos = Photos(images, loaded.preprocessing, len(loaded.classes))
    predictions = profile_predictions(net, photos, _words(options.predictors))
    return replace(measured, predictions=predictions), transforms, correctors


def _count(images: Sequence[LabelledPhoto], processes: Processes) -> str:
    if processes.count == 1:
        return f"{len(images)} photos"
    return f"{len(images)} photos in {processes.count} processes (what follows is of the first)"


def _check_head_precision(options: argparse.Namespace, processes: Processes) -> None:
    """Raise QueryError for what int8 heads cannot be combined with."""
    if options.head_precision == "fp32":
        return
    if options.corrector is not None or options.corrector_steps is not None:
        raise QueryError("correctors are trained behind heads in fp32: leave out --corrector")
    if processes.count > 1:
        raise QueryError("heads in int8 are measured by one process: start it without torchrun")


def _int8_heads(
    options: argparse.Namespace, prepared: _Prepared, processes: Processes
) -> Int8Heads | None:
    """A head in int8 for each split point where codecs are measured, if wanted."""
    if options.head_precision == "fp32":
        return None
    from ..network import quantise_heads

    names = _split_points(options.split_points, prepared.net)
    if names is None:
        points = prepared.net.split_points
        names = [p.name for p in points if p.is_block] or [p.name for p in points]
    common.note(options, f"making {len(names)} heads in int8 ...")
    with ExitStack() as stack:
        progress: bool | ProgressLines = not (options.json or options.quiet)
        if progress and not sys.stderr.isatty():
            progress = stack.enter_context(
                ProgressLines(doing="int8 heads", things="heads", afterwards="int8 heads")
            )
        return quantise_heads(
            prepared.net,
            prepared.images,
            preprocessing=prepared.loaded.preprocessing,
            split_points=names,
            progress=progress,
        )


def _transforms(
    options: argparse.Namespace,
    prepared: _Prepared,
    processes: Processes,
    int8_heads: Int8Heads | None,
) -> FittedTransforms | None:
    """The transforms for the codec ``dct``; ``None`` where none are wanted or photos are few."""
    from ..network import MIN_PHOTOS, fit_transforms

    images = prepared.images
    if options.no_transforms or not _has_transform_codec(options.codecs):
        return None
    if len(images) < MIN_PHOTOS:
        common.note(
            options,
            f"no transforms for the codec dct: they take at least {MIN_PHOTOS} photos, "
            f"got {len(images)}",
        )
        return None
    common.note(options, f"fitting transforms for the codec dct on {_count(images, processes)} ...")
    with ExitStack() as stack:
        progress: bool | ProgressLines = not (options.json or options.quiet)
        if progress and not sys.stderr.isatty():
            lines = ProgressLines(
                doing="fitting transforms", things="steps", afterwards="fitting transforms"
            )
            progress = stack.enter_context(lines)
        try:
            return fit_transforms(
                prepared.net,
                images,
                preprocessing=prepared.loaded.preprocessing,
                split_points=_split_points(options.split_points, prepared.net),
                batch_size=options.batch_size,
                threads=options.threads,
                progress=progress,
                processes=processes,
                int8_heads=int8_heads,
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
