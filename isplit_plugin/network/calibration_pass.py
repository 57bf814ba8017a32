"""One pass of a network over the calibration images: importance, predictions, codecs."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from .. import image as im
from ..errors import DataError, ImageError
from ..schema import INPUT, OUTPUT, FloatArray, Preprocessing
from .captured_network import CapturedNetwork
from .codec_meter import CodecMeter
from .correctors.fitted import FittedCorrectors
from .execution import activations
from .int8.heads import Int8Heads
from .loss_meter import LossMeter
from .photo_meter import Photo, PhotoMeter
from .processes import ONE_PROCESS, Block, Processes, blocks
from .transforms.fitted import FittedTransforms
from .wording import listing

__all__ = ["CalibrationPass", "LabelledImage"]

LabelledImage = tuple[im.Image, int | None]
"""An image and its class id; ``None`` if the class is unknown."""

SkippedImage = tuple[int, str, str]
"""Number, name and reason."""

_NAMED: Final = 20


class SkippedImages:
    """The images that could not be used, and why."""

    def __init__(self, images: Iterable[SkippedImage] = ()) -> None:
        self.images = sorted(images)

    def __len__(self) -> int:
        return len(self.images)

    def add(self, number: int, name: str, reason: str) -> None:
        self.images.append((number, name, reason))

    @property
    def names(self) -> str:
        return listing([name for _, name, _ in self.images], _NAMED)

    @property
    def reasons(self) -> str:
        """The most common reasons with their counts; empty if no image was skipped."""
        common = Counter(reason for _, _, reason in self.images).most_common(5)
        return "; ".join(f"{count} x {reason}" for reason, count in common)


class CalibrationPass:
    """Runs a network over calibration images and collects what a profile needs.

    Attributes:
        net, preprocessing: the network, and from an image to its input.
        target_kind: whose score is differentiated: "predicted" or "true".
        numbers: of the images that were used, among all that were given.
        importance: one array (n, P) for each batch of n images.
        target: the class of each image whose score was differentiated.
        top: the top-1 class of each image.
        labels: the true class of each image, ``None`` if it is unknown.
        skipped: the images that could not be used.
        seconds: what :meth:`run` took.
        measured: the split points where codecs are measured.
        meter: the measurements of the codecs.
        photo_meter: the measurements of whole photos.
        loss_meters: what loses packets, one for each rate.

    Raises SplitPointError, UnknownSplitPointError, UnknownCodecError.
    """

    def __init__(
        self,
        net: CapturedNetwork,
        *,
        preprocessing: Preprocessing,
        target: str,
        split_points: Sequence[str] | None,
        codecs: Sequence[str],
        photos: Sequence[str],
        transforms: FittedTransforms | None = None,
        most_misses: float = math.inf,
        correctors: FittedCorrectors | None = None,
        losses: Sequence[float] = (),
        int8_heads: Int8Heads | None = None,
    ) -> None:
        """See :func:`.profiling.profile` for the parameters."""
        self.net = net
        self._int8_heads = int8_heads
        self.numbers: list[int] = []
        self.importance: list[npt.NDArray[np.float64]] = []
        self.target: list[int] = []
        self.top: list[int] = []
        self.labels: list[int | None] = []
        self.skipped = SkippedImages()
        self.seconds = 0.0
        self.preprocessing = preprocessing
        self.target_kind = target
        self._uses_labels = target == "true"
        self.measured = _measured_points(net, split_points)
        tails = {name: net.bisect(name)[1] for name in (INPUT, *self.measured)}
        channel_axes = {point.name: point.channel_axis for point in net.split_points}
        self.meter = CodecMeter(
            tails,
            codecs,
            channel_axes,
            transforms,
            most_misses=most_misses,
            correctors=correctors,
        )
        self.photo_meter = PhotoMeter(photos, preprocessing, most_misses)
        self.loss_meters = [LossMeter(loss, tails, codecs, channel_axes) for loss in losses]

    def run(
        self,
        images: Iterable[LabelledImage],
        batch_size: int,
        report: Callable[[int], None],
        processes: Processes = ONE_PROCESS,
    ) -> None:
        """Process the images that this process owns, block by block of ``batch_size``.

        A block is one batch, whichever process runs it, so the values do not depend on how many
        there are. ``report`` is called with the number of its images done so far.

        Raises DataError for a class id that the network does not have, and for a missing label
        that is needed.
        """
        started = time.perf_counter()
        for number, block in enumerate(blocks(images, batch_size)):
            if not processes.owns(number):
                continue
            if photos := self._readable(block):
                self._process([photo for photo, _ in photos], [label for _, label in photos])
            report(len(self.top) + len(self.skipped))
            self.seconds = time.perf_counter() - started

    def _readable(self, block: Block) -> list[tuple[Photo, int | None]]:
        photos = []
        for number, image, class_id in block:
            name = str(image) if isinstance(image, (str, Path)) else f"number {number}"
            if class_id is not None and not 0 <= class_id < self.net.classes:
                raise DataError(
                    f"image {name}: class {class_id}, the network has classes 0 to "
                    f"{self.net.classes - 1}"
                )
            try:
                photos.append((_open_photo(image, self.preprocessing, name, number), class_id))
            except ImageError as error:
                self.skipped.add(number, name, error.message)
        return photos

    def _process(self, photos: Sequence[Photo], labels: Sequence[int | None]) -> None:
        known_labels = [label for label in labels if label is not None]
        if self._uses_labels and len(known_labels) < len(photos):
            missing = len(photos) - len(known_labels)
            raise DataError(f"target 'true' needs the class of every image; {missing} have none")
        x = self._tensor(np.stack([photo.array for photo in photos]))
        importance = self.net.importance(x, known_labels if self._uses_labels else None)
        finite = np.isfinite(importance.values).all(axis=1)
        finite &= np.isfinite(importance.scores).all(axis=1)
        usable = []
        for photo, label, is_finite in zip(photos, labels, finite, strict=True):
            if is_finite:
                usable.append(photo)
                self.labels.append(label)
                self.numbers.append(photo.number)
            else:
                self.skipped.add(photo.number, photo.name, "importance or scores are not finite")
        if not usable:
            return
        self.importance.append(importance.values[finite].astype(np.float64))
        self.target += importance.target[finite].tolist()
        self._measure(usable, x[torch.from_numpy(finite).to(x.device)])

    def _measure(self, photos: Sequence[Photo], x: torch.Tensor) -> None:
        # Agreement is relative to a plain forward pass of the same batch, which the tails continue
        # bit for bit.
        tensors, scores = activations(self.net, self.measured, x)
        if self._int8_heads is not None:
            tensors = self._int8_heads.activations(self.measured, x)
        top = scores.argmax(dim=1).cpu().numpy()
        self.top += top.tolist()
        self.photo_meter.add(photos, self._scores, top)
        numbers = [photo.number for photo in photos]
        self.meter.add_activations(INPUT, x, top)
        for loss_meter in self.loss_meters:
            loss_meter.add_activations(INPUT, x, top, numbers)
        for name in self.measured:
            self.meter.add_activations(name, tensors[name], top, numbers)
            for loss_meter in self.loss_meters:
                loss_meter.add_activations(name, tensors[name], top, numbers)

    def _scores(self, inputs: FloatArray) -> torch.Tensor:
        with torch.inference_mode():
            return torch.as_tensor(self.net.model(self._tensor(inputs)))

    def _tensor(self, array: FloatArray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.net.device, self.net.dtype)


def _measured_points(net: CapturedNetwork, names: Sequence[str] | None) -> tuple[str, ...]:
    """The main names of the split points where codecs are measured, by default the blocks'."""
    if names is None:
        blocks = [point.name for point in net.split_points if point.is_block]
        names = blocks or [point.name for point in net.split_points]
    inner = [net.split_point(name).name for name in names if name not in (INPUT, OUTPUT)]
    return tuple(dict.fromkeys(inner))


def _open_photo(image: im.Image, preprocessing: Preprocessing, name: str, number: int) -> Photo:
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        return Photo(name, None, None, im.preprocess(image, preprocessing), number)
    crop = im.crop(image, preprocessing)
    file_bytes = None
    if isinstance(image, (str, Path)):
        file_bytes = Path(image).stat().st_size
    elif isinstance(image, (bytes, bytearray, memoryview)):
        file_bytes = memoryview(image).nbytes
    return Photo(name, crop, file_bytes, im.normalize(crop, preprocessing), number)
