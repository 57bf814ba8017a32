"""Making a profile: importance, bytes, times and agreement on calibration images."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Sequence, Sized
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .. import __version__
from ..advice import most_misses
from ..errors import DataError
from ..photo_codecs import PHOTOS
from ..profile import TARGETS, CutMeasurement, Profile
from ..schema import ON_DEVICE, TRANSFORM_CODEC, Preprocessing
from ..wire import CODECS
from .calibration_pass import CalibrationPass, LabelledImage
from .captured_network import CapturedNetwork
from .correctors.corrector_file import corrector_sha256
from .correctors.fitted import FittedCorrectors
from .device_times import device_head_ms
from .execution import cpu_threads, full_precision, on_best_device, on_device
from .int8.heads import Int8Heads
from .loss_meter import check_losses
from .merging import merge
from .part_times import head_and_tail_ms
from .processes import ONE_PROCESS, Processes
from .progress import Progress, reporter
from .transforms.fitted import FittedTransforms

__all__ = ["profile"]


def profile(
    net: CapturedNetwork,
    images: Iterable[LabelledImage],
    *,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    model: str = "",
    split_points: Sequence[str] | None = None,
    codecs: Sequence[str] = CODECS,
    photos: Sequence[str] = PHOTOS,
    target: str = "predicted",
    batch_size: int = 8,
    threads: int | None = None,
    device: str | None = None,
    progress: bool | Progress | None = None,
    transforms: FittedTransforms | None = None,
    processes: Processes = ONE_PROCESS,
    curtail: float | None = None,
    device_heads: bool = False,
    correctors: FittedCorrectors | None = None,
    losses: Sequence[float] = (),
    int8_heads: Int8Heads | None = None,
) -> Profile:
    """Measure a network on calibration images.

    Each image yields one importance value at every split point, in one forward and one backward
    pass. The profile holds their moments for each class about ``mean0``, the mean over all images.
    Times are those of one image on one CPU thread. Images that cannot be read are skipped, counted
    and named in ``provenance``.

    Parameters:
        images: images with their class ids, ``None`` for an unknown class.
        preprocessing: from an image to the network's input.
        classes: the class names, in the order of the scores.
        model: the model's name.
        split_points: where codecs are measured, besides ``input`` and ``output``; by default at
            every block output.
        codecs: the codecs to measure, each in all its qualities, and codings such as ``dct@3``.
        photos: the forms in which whole photos are measured at `input`, such as ``webp@75``. Those
            that this Pillow cannot write are left out.
        target: "predicted" differentiates the score of the predicted class and counts the image
            for that class; "true" does so with the true class.
        batch_size: images in one pass, of consecutive ones.
        threads: CPU threads for importance and agreement; by default torch's choice.
        device: where importance and agreement are computed; by default a CUDA device if there is
            one and the network runs on it.
        progress: ``True`` for a bar on stderr, or a function (:data:`Progress`).
        transforms: from :func:`fit_transforms` on the same images, in the same order. With them the
            codec ``dct`` is measured too, each image with a transform that was fitted without it.
        processes: those that share the images. Each is given all images and measures the blocks
            that it owns; the times are those of the first. All return the same profile.
        curtail: a tolerance. A cut that misses so many images that it cannot be faithful any more
            (:func:`isplit_plugin.advice.most_misses` of all images) is measured no further, by each
            process for itself. That saves time and changes no verdict at this tolerance; the
            agreement of such a cut rests on fewer images, and is a little too low.
        device_heads: export some heads and time them in onnxruntime, as devices run them, where it
            is installed (:func:`.device_times.device_head_ms`). By default head times are PyTorch's.
        correctors: from :func:`fit_correctors` on the same images, in the same order. With them
            the codec ``dct`` is measured as corrected, each image by a corrector that was trained
            without it; what a corrector takes counts as decoding.
        losses: shares of packets that are lost and not sent again, as on UDP; the agreement that is
            left is measured for each (:mod:`.loss_meter`).
        int8_heads: from :func:`quantise_heads`, one for each split point where codecs are measured.
            Bytes, agreement and head times are then theirs; agreement stays that with the full
            network in its own precision. ``transforms`` must be fitted with the same heads.

    Raises:
        DataError: no usable images, a class id that the network does not have, a missing label for
            target "true", or an argument that makes no sense.
        SplitPointError, UnknownSplitPointError, UnknownCodecError: for these arguments.
        CaptureError: the network does not run on ``device``.
        IsplitError: another process ended.
    """
    _check_arguments(net, preprocessing, classes, target, batch_size)
    calibration = CalibrationPass(
        on_best_device(net) if device is None else on_device(net, device),
        preprocessing=preprocessing,
        target=target,
        split_points=split_points,
        codecs=codecs
        if transforms is None or TRANSFORM_CODEC in codecs
        else (*codecs, TRANSFORM_CODEC),
        photos=photos,
        transforms=transforms,
        most_misses=_most_misses(images, curtail),
        correctors=correctors,
        losses=check_losses(losses),
        int8_heads=int8_heads,
    )
    total = processes.own_photos(len(images), batch_size) if isinstance(images, Sized) else None
    with cpu_threads(threads), full_precision(), reporter(progress, total, "profiling") as report:
        calibration.run(images, batch_size, report, processes)
        used_threads = torch.get_num_threads()
    merge(calibration, processes)
    measured = b""
    if processes.is_first and calibration.top:
        made = _made(
            net,
            calibration,
            classes=tuple(classes),
            model=model,
            device_heads=device_heads,
            correctors=_identities(correctors, transforms),
            int8_heads=int8_heads,
            provenance=_provenance(calibration, used_threads)
            | ({"processes": str(processes.count)} if processes.count > 1 else {})
            | ({} if curtail is None else {"curtailed": f"tolerance {curtail:g}"})
            | _precision(int8_heads),
        )
        if processes.count == 1:
            return made
        measured = made.to_bytes()
    measured = processes.broadcast(measured)
    if not measured:
        reasons = calibration.skipped.reasons or "none were given"
        raise DataError(f"no usable images: {reasons}")
    return Profile.from_bytes(measured)


def _made(
    net: CapturedNetwork,
    calibration: CalibrationPass,
    *,
    classes: tuple[str, ...],
    model: str,
    device_heads: bool,
    correctors: dict[str, str],
    int8_heads: Int8Heads | None,
    provenance: dict[str, str],
) -> Profile:
    """The profile of a pass over all images."""
    class_ids, rows = np.unique(np.asarray(calibration.target, dtype=np.int64), return_inverse=True)
    correct = _correct(calibration)
    timed = calibration.measured if device_heads or int8_heads is not None else None
    head_ms, tail_ms, engine = _times(net, timed, int8_heads)
    return Profile(
        model=model,
        network_hash=net.network_hash(calibration.preprocessing),
        classes=classes,
        split_points=net.split_points,
        preprocessing=calibration.preprocessing,
        target=calibration.target_kind,
        class_ids=class_ids,
        **_moments(np.concatenate(calibration.importance), rows, len(class_ids)),
        head_ms=head_ms,
        tail_ms=tail_ms,
        measurements=_measurements(calibration, rows, len(class_ids)),
        accuracy=float(np.mean(correct)) if correct else None,
        provenance=provenance | {"head_times": engine},
        correctors=correctors,
        int8_heads={} if int8_heads is None else int8_heads.sha256(),
        refinements=calibration.meter.refinements(),
    )


def _precision(int8_heads: Int8Heads | None) -> dict[str, str]:
    if int8_heads is None:
        return {}
    layers = int8_heads.float_layers
    return {"head_precision": f"int8, the first {layers} convolutions fp32" if layers else "int8"}


def _most_misses(images: Iterable[LabelledImage], curtail: float | None) -> float:
    if curtail is None:
        return math.inf
    if not isinstance(images, Sized):
        raise DataError("curtail: expected images whose number is known, such as a list")
    return most_misses(len(images), curtail)


def _check_arguments(
    net: CapturedNetwork,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    target: str,
    batch_size: int,
) -> None:
    if target not in TARGETS:
        raise DataError(f"target: expected 'predicted' or 'true', got {target!r}")
    if len(classes) != net.classes:
        raise DataError(f"the network has {net.classes} scores, but {len(classes)} class names")
    if preprocessing.shape != net.input_shape:
        raise DataError(
            f"preprocessing gives {preprocessing.shape}, the network takes {net.input_shape}"
        )
    if batch_size < 1:
        raise DataError(f"batch size: expected at least 1, got {batch_size}")


def _moments(
    values: npt.NDArray[np.float64], rows: npt.NDArray[np.intp], classes: int
) -> dict[str, Any]:
    """The moments of a profile (see its attributes), from values (N, P) and class rows (N,)."""
    mean0 = values.mean(axis=0)
    shifted = values - mean0
    count = np.bincount(rows, minlength=classes).astype(np.int64)
    sum1 = np.zeros((classes, values.shape[1]))
    sum2 = np.zeros((classes, values.shape[1]))
    np.add.at(sum1, rows, shifted)
    np.add.at(sum2, rows, shifted**2)
    within_class = shifted - (sum1 / count[:, None])[rows]
    return {
        "count": count,
        "mean0": mean0,
        "sum1": sum1,
        "sum2": sum2,
        "comoment": within_class.T @ within_class,
        "comoment_dof": len(values) - classes,
    }


def _times(
    net: CapturedNetwork, device_heads: Sequence[str] | None, int8_heads: Int8Heads | None
) -> tuple[dict[str, float], dict[str, float], str]:
    """Milliseconds of heads and tails, and the engine of the heads.

    ``device_heads``: the split points among which heads are timed in onnxruntime; ``None`` for none.
    """
    on_cpu = on_device(net, "cpu")
    with cpu_threads(1):
        head_ms, tail_ms = head_and_tail_ms(on_cpu, [point.name for point in on_cpu.split_points])
        timed = (
            None
            if device_heads is None
            else device_head_ms(on_cpu, device_heads, head_ms, int8_heads=int8_heads)
        )
    if timed is None:
        return head_ms, tail_ms, "PyTorch"
    return timed, tail_ms, "onnxruntime, as devices run them"


def _measurements(
    calibration: CalibrationPass, rows: npt.NDArray[np.intp], classes: int
) -> tuple[CutMeasurement, ...]:
    # At `output` nothing is sent, and the device's answer is the full network's.
    images = np.bincount(rows, minlength=classes).astype(np.int64)
    output = CutMeasurement(ON_DEVICE, 0.0, 0.0, 0.0, images, images.copy())
    meters = (calibration.photo_meter, calibration.meter)
    measured = [m for meter in meters for m in meter.measurements(rows, classes)]
    samples = {cut: of_cut for meter in meters for cut, of_cut in meter.samples.items()}
    return tuple(
        replace(
            measurement,
            under_loss={
                meter.loss: meter.agreement(measurement.cut, samples.get(measurement.cut))
                for meter in calibration.loss_meters
            },
        )
        for measurement in (*measured, output)
    )


def _identities(
    correctors: FittedCorrectors | None, transforms: FittedTransforms | None
) -> dict[str, str]:
    """The SHA-256 of the corrector at each split point."""
    if correctors is None or transforms is None:
        return {}
    return {
        name: corrector_sha256(corrector, transforms.transforms[name])
        for name, corrector in correctors.correctors.items()
    }


def _correct(calibration: CalibrationPass) -> list[bool]:
    """For each image with a label, whether the full network is right."""
    return [
        top == label
        for top, label in zip(calibration.top, calibration.labels, strict=True)
        if label is not None
    ]


def _provenance(calibration: CalibrationPass, threads: int) -> dict[str, str]:
    device = calibration.net.device
    is_cuda = device.type == "cuda"
    skipped = calibration.skipped
    provenance = {
        "isplit": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "threads": str(threads),
        "times": f"1 thread, {platform.processor() or platform.machine()}",
        "images": str(len(calibration.top)),
        "labelled": str(len(_correct(calibration))),
        "skipped": str(len(skipped)),
        "photo_forms": _photo_forms(calibration),
    }
    if skipped:
        provenance |= {"skipped_names": skipped.names, "skipped_why": skipped.reasons}
    return provenance


def _photo_forms(calibration: CalibrationPass) -> str:
    """How many forms of the photo were measured, and what that took."""
    meter = calibration.photo_meter
    forms, dropped = meter.forms
    early = f", {dropped} of them dropped early" if dropped else ""
    return f"{forms} forms{early}; {meter.seconds:.0f} s of {calibration.seconds:.0f} s for all measurements"
