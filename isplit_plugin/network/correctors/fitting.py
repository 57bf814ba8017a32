"""Fitting the correctors of a network: one split point after the other, in one process or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Final, TypeVar

import numpy as np

from ... import image as im
from ...errors import DataError
from ...hashed_arrays import pack_arrays, unpack_arrays
from ...schema import Preprocessing
from ..captured_network import CapturedNetwork
from ..execution import cpu_threads, full_precision, on_best_device, on_device
from ..processes import ONE_PROCESS, Processes
from ..progress import Progress, reporter
from ..transforms.fitted import FOLDS, FittedTransforms
from .corrector_file import pack_correctors, unpack_correctors
from .fitted import CorrectorFit, FittedCorrectors
from .training import PointTraining

_KEY: Final = "isplit_fitted_correctors"
_T = TypeVar("_T")


def fit_correctors(
    net: CapturedNetwork,
    images: Sequence[tuple[im.Image, int | None]],
    transforms: FittedTransforms,
    *,
    preprocessing: Preprocessing,
    split_points: Sequence[str] | None = None,
    seconds: float = 120.0,
    steps: int | None = None,
    batch_size: int = 16,
    threads: int | None = None,
    device: str | None = None,
    seed: int = 0,
    progress: bool | Progress | None = None,
    processes: Processes = ONE_PROCESS,
) -> FittedCorrectors:
    """Train a corrector for each split point that has a transform.

    The loss is the divergence of the tail's answer on the corrected activation from the full
    network's answer, divided by the quality's own without a corrector. No labels are used. One
    corrector serves all qualities. As with transforms, one more is trained without the photos of
    each fold, to measure with. Qualities that do not gain on unseen photos are left as they are.

    Parameters:
        images: those that the transforms were fitted on, in the same order.
        split_points: by default all that have a transform.
        seconds: for each split point, all included: running the photos, the three trainings, and
            the check. The time of the first steps says how many fit, at least :data:`MIN_STEPS`.
        steps: of each training, instead of ``seconds``.
        batch_size: activations in one step.
        device: where the network runs; by default a CUDA device if there is one.
        seed: of weights, crops and order.
        progress: ``True`` for a bar on stderr, or a function (:data:`Progress`) that gets the
            percents done.
        processes: those that share the split points. Each is given all images and trains at the
            points that it owns. All return the same correctors.

    Raises:
        DataError: no usable photos, or a budget that makes no sense.
        SplitPointError, UnknownSplitPointError: for ``split_points``.
    """
    if not seconds > 0 or (steps is not None and steps < 1):
        raise DataError(f"correctors: expected seconds and steps above 0, got {seconds}, {steps}")
    names = list(transforms.transforms)
    if split_points is not None:
        wanted = {net.split_point(name).name for name in split_points}
        names = [name for name in names if name in wanted]
    own = [name for number, name in enumerate(names) if processes.owns(number)]
    runner = on_best_device(net) if device is None else on_device(net, device)
    with (
        cpu_threads(threads),
        full_precision(),
        reporter(progress, 100 * len(own), "training correctors") as report,
    ):
        fits = {}
        for done, name in enumerate(own):

            def report_share(share: float, done: int = done) -> None:
                report(100 * done + int(100 * min(share, 1.0)))

            point = PointTraining(
                runner,
                name,
                transforms,
                batch_size=batch_size,
                seed=seed,
                report=report_share,
            )
            fits[name] = point.run(images, preprocessing, seconds, steps)
        report(100 * len(own))
    trained = FittedCorrectors(
        {name: fit[0] for name, fit in fits.items()},
        tuple({name: fit[1][fold] for name, fit in fits.items()} for fold in range(FOLDS)),
        {name: fit[2] for name, fit in fits.items()},
    )
    return trained if processes.count == 1 else _shared(trained, transforms, processes)


def _shared(
    own: FittedCorrectors, transforms: FittedTransforms, processes: Processes
) -> FittedCorrectors:
    """The correctors of all processes, at every process."""
    parts = [_unpacked(data, transforms) for data in processes.gather(_packed(own, transforms))]
    data = _packed(_merged(parts, transforms), transforms) if processes.is_first else b""
    return _unpacked(processes.broadcast(data), transforms)


def _merged(parts: Sequence[FittedCorrectors], transforms: FittedTransforms) -> FittedCorrectors:
    def ordered(own: Iterable[Mapping[str, _T]]) -> dict[str, _T]:
        together = {name: value for part in own for name, value in part.items()}
        return {name: together[name] for name in transforms.transforms if name in together}

    return FittedCorrectors(
        ordered(part.correctors for part in parts),
        tuple(ordered(part.without_fold[fold] for part in parts) for fold in range(FOLDS)),
        ordered(part.fits for part in parts),
    )


def _packed(fitted: FittedCorrectors, transforms: FittedTransforms) -> bytes:
    files = [pack_correctors(fitted.correctors, transforms.transforms)]
    for own, behind in zip(fitted.without_fold, transforms.without_fold, strict=True):
        files.append(pack_correctors(own, behind))
    arrays = {str(number): np.frombuffer(file, np.uint8) for number, file in enumerate(files)}
    fits = {name: asdict(fit) for name, fit in fitted.fits.items()}
    return pack_arrays(_KEY, {"format": 1, "fits": fits}, arrays)


def _unpacked(data: bytes, transforms: FittedTransforms) -> FittedCorrectors:
    content, arrays = unpack_arrays(data, _KEY, newest=1, max_bytes=1 << 40)
    behind = (transforms.transforms, *transforms.without_fold)
    deployed, *without = (
        unpack_correctors(arrays[str(number)].tobytes(), each) for number, each in enumerate(behind)
    )
    fits = {
        name: CorrectorFit(int(fit["steps"]), tuple(fit["before"]), tuple(fit["after"]))
        for name, fit in content["fits"].items()
    }
    return FittedCorrectors(deployed, tuple(without), fits)
