"""From calibration images to a profile: importance, sizes, times and measured agreement of one network."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from .. import __version__
from .. import image as im
from ..errors import DataError, ImageError
from ..profile import CutMeasurement, Profile
from ..schema import INPUT, ON_DEVICE, OUTPUT, FloatArray, Preprocessing
from ..wire import CODECS
from .captured_network import CapturedNetwork
from .execution import (
    activations,
    cpu_threads,
    full_precision,
    graph_and_nodes,
    on_best_device,
    on_device,
)
from .measuring import CodecMeter, Photo
from .timing import head_and_tail_ms

__all__ = ["profile"]

Progress = Callable[[int, int | None], None]
LabelledImages = Iterable[tuple[im.Image, int | None]]
_NAMED: Final = 20


def profile(
    net: CapturedNetwork,
    images: LabelledImages,
    *,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    model: str = "",
    split_points: Sequence[str] | None = None,
    codecs: Sequence[str] = CODECS,
    target: str = "predicted",
    batch_size: int = 8,
    threads: int | None = None,
    device: str | None = None,
    progress: bool | Progress | None = None,
) -> Profile:
    """Measure a network on images with their class ids (``None``: not known).

    Each image gives one importance value at every split point, in one forward and one backward pass; per class row the
    profile keeps their moments about ``mean0``, the mean over all images. ``split_points``: where every codec is
    measured (default: the block outputs); ``input`` (photo and tensor) and ``output`` are measured besides.

    ``target``: "predicted" differentiates the score of the predicted class and files the image under it, "true" that
    of its label. Importance and agreement run on ``device`` (default: a CUDA device where the network runs on one) with
    ``threads``; times are of one image on one CPU thread in any case. ``progress``: ``True`` for a bar on stderr, or
    a function of (images done, images in all where known).

    Images that cannot be read are skipped, counted and named in ``provenance``. Raises DataError where none is left,
    where a class id is beyond ``classes``, and for target "true" where a label is missing; UnknownSplitPointError,
    UnknownCodecError; CaptureError where the network does not run on the ``device`` asked for.
    """
    if target not in ("predicted", "true"):
        raise DataError(f"target: expected 'predicted' or 'true', got {target!r}")
    if len(classes) != net.classes:
        raise DataError(
            f"the network has {net.classes} scores, but {len(classes)} class names are given"
        )
    if preprocessing.shape != net.input_shape:
        raise DataError(
            f"preprocessing gives {preprocessing.shape}, the network takes {net.input_shape}"
        )
    if batch_size < 1:
        raise DataError(f"batch size: expected at least 1, got {batch_size}")
    work = _Work(
        on_best_device(net) if device is None else on_device(net, device), split_points, target
    )
    tails = {name: work.net.bisect(name)[1] for name in (INPUT, *work.measured)}
    meter = CodecMeter(
        tails, codecs, preprocessing, {point.name: point.channel_axis for point in net.split_points}
    )
    total = len(images) if isinstance(images, Sized) else None
    gathered = _Gathered()
    readable = _readable(images, preprocessing, len(classes), gathered)
    with cpu_threads(threads), full_precision(), _reporter(progress, total) as report:
        while batch := list(islice(readable, batch_size)):
            work.batch(batch, meter, gathered)
            report(len(gathered.top) + len(gathered.skipped), total)
        used_threads = torch.get_num_threads()
    if not gathered.values:
        raise DataError(f"no usable images: {gathered.why()}")
    head_ms, tail_ms = _times(net)
    values = np.concatenate(gathered.values)
    owner = np.asarray(gathered.target, dtype=np.int64)
    class_ids, rows = np.unique(owner, return_inverse=True)
    known = [
        (top, true)
        for top, true in zip(gathered.top, gathered.true, strict=True)
        if true is not None
    ]
    return Profile(
        model=model,
        network_hash=net.network_hash(preprocessing),
        classes=tuple(classes),
        split_points=net.split_points,
        preprocessing=preprocessing,
        target=target,
        class_ids=class_ids,
        **_moments(values, rows, len(class_ids)),
        head_ms=head_ms,
        tail_ms=tail_ms,
        measurements=(*meter.measures(rows, len(class_ids)), _output_measure(rows, len(class_ids))),
        accuracy=float(np.mean([top == true for top, true in known])) if known else None,
        provenance=_provenance(work.net, gathered, len(known), used_threads),
    )


@dataclass
class _Gathered:
    """What the pass over the images collects."""

    values: list[npt.NDArray[np.float64]] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    top: list[int] = field(default_factory=list)
    true: list[int | None] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def skip(self, name: str, reason: str) -> None:
        self.skipped.append(name)
        self.reasons[reason] += 1

    def why(self) -> str:
        return (
            "; ".join(f"{count} x {reason}" for reason, count in self.reasons.most_common(5))
            or "none were given"
        )


def _readable(
    images: LabelledImages, pre: Preprocessing, classes: int, gathered: _Gathered
) -> Iterator[tuple[Photo, int | None]]:
    for number, (image, class_id) in enumerate(images):
        if class_id is not None and not 0 <= class_id < classes:
            raise DataError(
                f"image {_name(image, number)}: class {class_id}, the network has 0 to {classes - 1}"
            )
        try:
            photo = _photo(image, pre, _name(image, number))
        except ImageError as error:
            gathered.skip(_name(image, number), error.message)
            continue
        yield photo, class_id


def _photo(image: im.Image, pre: Preprocessing, name: str) -> Photo:
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        return Photo(name, None, None, im.preprocess(image, pre))
    cropped = im.crop(image, pre)
    size = None
    if isinstance(image, (str, Path)):
        size = Path(image).stat().st_size
    elif isinstance(image, (bytes, bytearray, memoryview)):
        size = memoryview(image).nbytes
    return Photo(name, cropped, size, im.normalize(cropped, pre))


class _Work:
    """The pass over one batch, on one device."""

    def __init__(self, net: CapturedNetwork, names: Sequence[str] | None, target: str) -> None:
        self.net = net
        self._target = target
        if names is None:
            names = [p.name for p in net.split_points if p.is_block] or [
                p.name for p in net.split_points
            ]
        kept = [net.split_point(name).name for name in names if name not in (INPUT, OUTPUT)]
        self.measured = tuple(dict.fromkeys(kept))
        self._module, self._nodes = graph_and_nodes(net, self.measured)

    def batch(
        self, batch: Sequence[tuple[Photo, int | None]], meter: CodecMeter, gathered: _Gathered
    ) -> None:
        true = [class_id for _, class_id in batch]
        labels = [class_id for class_id in true if class_id is not None]
        if self._target == "true" and len(labels) < len(batch):
            raise DataError(
                f"target 'true' needs the class of every image; {len(batch) - len(labels)} have none"
            )
        x = self._tensor(np.stack([photo.array for photo, _ in batch]))
        importance = self.net.importance(x, labels if self._target == "true" else None)
        finite = np.isfinite(importance.values).all(axis=1) & np.isfinite(importance.scores).all(
            axis=1
        )
        for photo, _ in (pair for pair, keep in zip(batch, finite, strict=True) if not keep):
            gathered.skip(photo.name, "importance or scores are not finite")
        if not finite.any():
            return
        photos = [photo for (photo, _), keep in zip(batch, finite, strict=True) if keep]
        gathered.values.append(importance.values[finite].astype(np.float64))
        gathered.target += importance.target[finite].tolist()
        gathered.true += [class_id for class_id, keep in zip(true, finite, strict=True) if keep]
        # The reference for agreement is a plain forward pass of the same batch: what a tail continues, bit for bit.
        x = x[torch.from_numpy(finite).to(x.device)]
        values, scores = activations(self._module, self._nodes, x)
        top = scores.argmax(dim=1).cpu().numpy()
        gathered.top += top.tolist()
        meter.add_images(photos, self._scores, top)
        meter.add(INPUT, x, top)
        for name in self.measured:
            meter.add(name, values[name], top)

    def _scores(self, inputs: FloatArray) -> torch.Tensor:
        with torch.inference_mode():
            return torch.as_tensor(self.net.model(self._tensor(inputs)))

    def _tensor(self, array: FloatArray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.net.device, self.net.dtype)


def _moments(
    values: npt.NDArray[np.float64], rows: npt.NDArray[np.intp], classes: int
) -> dict[str, Any]:
    """Sums about the mean of all images, by class row; and the pooled within-class sum of products."""
    mean0 = values.mean(axis=0)
    shifted = values - mean0
    count = np.bincount(rows, minlength=classes).astype(np.int64)
    sum1, sum2 = np.zeros((classes, values.shape[1])), np.zeros((classes, values.shape[1]))
    np.add.at(sum1, rows, shifted)
    np.add.at(sum2, rows, shifted**2)
    within = shifted - (sum1 / count[:, None])[rows]
    return {
        "count": count,
        "mean0": mean0,
        "sum1": sum1,
        "sum2": sum2,
        "comoment": within.T @ within,
        "comoment_dof": len(values) - classes,
    }


def _times(net: CapturedNetwork) -> tuple[dict[str, float], dict[str, float]]:
    on_cpu = on_device(net, "cpu")
    module, nodes = graph_and_nodes(on_cpu, [point.name for point in on_cpu.split_points])
    with cpu_threads(1):
        return head_and_tail_ms(module, nodes, torch.rand(1, *net.input_shape, dtype=net.dtype))


def _output_measure(rows: npt.NDArray[np.intp], classes: int) -> CutMeasurement:
    seen = np.bincount(rows, minlength=classes).astype(np.int64)
    return CutMeasurement(ON_DEVICE, 0.0, 0.0, 0.0, seen, seen.copy())


def _provenance(
    net: CapturedNetwork, gathered: _Gathered, labelled: int, threads: int
) -> dict[str, str]:
    skipped = gathered.skipped
    names = ", ".join(skipped[:_NAMED]) + (", ..." if len(skipped) > _NAMED else "")
    return {
        "isplit": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(net.device)
        if net.device.type == "cuda"
        else net.device.type,
        "threads": str(threads),
        "times": f"1 thread, {platform.processor() or platform.machine()}",
        "images": str(len(gathered.top)),
        "labelled": str(labelled),
        "skipped": str(len(skipped)),
        **({"skipped_names": names, "skipped_why": gathered.why()} if skipped else {}),
    }


def _name(image: object, number: int) -> str:
    return str(image) if isinstance(image, (str, Path)) else f"number {number}"


@contextmanager
def _reporter(progress: bool | Progress | None, total: int | None) -> Iterator[Progress]:
    if progress is True:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("profiling"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("profiling", total=total)
            yield lambda done, _: bar.update(task, completed=done)
    else:
        yield progress or (lambda _done, _total: None)
