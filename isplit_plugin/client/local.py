"""The device's own part of a prediction: preprocessing, the head, and encoding what is sent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from .. import image as im
from ..errors import BundleError, ImageError
from ..image import Image
from ..photo_codecs import write_photo
from ..schema import INPUT, MAX_QUALITY, OUTPUT, PHOTO_FILE, Cut, FloatArray, Manifest
from ..wire import (
    Tensor,
    Transform,
    decode_activation,
    encode_activation,
    encode_images,
    needs_transform,
)
from .bundle import HeadBundle
from .photo_bytes import file_bytes
from .runtimes import HeadRuntime

_MS_PER_S: Final = 1e3
_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImages:
    """The tensor that a request sends, and the milliseconds that it took to make it.

    Attributes:
        prepare_ms: reading and preprocessing, and loading a head at its first use.
        head_ms: running the head.
        encode_ms: the codec.
        exit_ms: asking the exit of the cut.
        activation: (N, ...), what the tensor was made of; ``None`` at `input`.
    """

    tensor: Tensor
    prepare_ms: float = 0.0
    head_ms: float = 0.0
    encode_ms: float = 0.0
    activation: FloatArray | None = None
    exit_ms: float = 0.0

    def uplink_ms(self, mbps: float | None) -> float:
        """How long the tensor's bytes take; NaN where the bandwidth is not known."""
        return math.nan if mbps is None else self.tensor.nbytes * 8 / (1000 * mbps)


@dataclass(frozen=True, slots=True, eq=False)
class LocalScores:
    """Class scores of the whole network on the device, shape (N, classes), and times as above."""

    scores: FloatArray
    prepare_ms: float
    head_ms: float


class LocalNetwork:
    """The heads of a bundle and the runtime that runs them.

    Parameters:
        bundle: ``None`` for a client that sends photo files only.
        runtime: ``None`` without a bundle.
    """

    def __init__(self, bundle: HeadBundle | None, runtime: HeadRuntime | None) -> None:
        self.manifest: Manifest | None = None if bundle is None else bundle.manifest
        self._bundle = bundle
        self._transforms: dict[str, Transform] = {}
        self.runtime = runtime

    def has_head(self, split_point: str) -> bool:
        """Whether the network can run here up to this split point. At `input`, nothing runs."""
        if split_point == INPUT:
            return True
        return self.runtime is not None and self.runtime.has(split_point)

    def encode(self, images: Sequence[Image], cut: Cut) -> EncodedImages:
        """Run the head of ``cut`` and encode what it puts out; at `input`, encode the images.

        Raises:
            ImageError: an image cannot be read.
            BundleError: there is no bundle, no head for the cut, or the head fails.
        """
        if cut.is_photo and cut.codec == PHOTO_FILE:
            return self._encode_files(images)
        if cut.is_photo:
            return self._encode_photos(images, cut)
        if cut.split_point == INPUT:
            return self._encode_pixels(images, cut)
        return self._encode_activation(images, cut)

    def classify(self, images: Sequence[Image]) -> LocalScores:
        """Run the whole network here. Raises as :meth:`encode`."""
        watch = _Stopwatch()
        x = self._preprocessed(images)
        self._load(OUTPUT)
        prepare_ms = watch.lap_ms()
        scores = self._run(OUTPUT, x)
        return LocalScores(scores, prepare_ms, watch.lap_ms())

    def encode_activation(self, activation: FloatArray, cut: Cut) -> Tensor:
        """The tensor that a request sends for an activation (N, ...) at a cut.

        Of a refining cut, it is the first request's.

        Raises BundleError without a bundle, or without the transform that the codec needs.
        """
        cut = cut.first
        axis = self.required_manifest().split_point(cut.split_point).channel_axis
        transform = self._transform(cut)
        return encode_activation(activation, cut.coding, channel_axis=axis, transform=transform)

    def decoded(self, tensor: Tensor, cut: Cut) -> FloatArray:
        """The activation (1, *shape) that the tail decodes from a tensor. Raises WireError."""
        shape = self.required_manifest().split_point(cut.split_point).shape
        transform = self._transform(cut)
        return decode_activation(tensor, shape=shape, max_batch=1, transform=transform)

    def required_manifest(self) -> Manifest:
        """The bundle's manifest. Raises BundleError without a bundle."""
        if self.manifest is None:
            raise BundleError(
                "this needs the head bundle: SplitClient(..., head='<model>.head.zip')"
            )
        return self.manifest

    def _encode_files(self, images: Sequence[Image]) -> EncodedImages:
        watch = _Stopwatch()
        tensor = encode_images(read_each(images, file_bytes), PHOTO_FILE)
        return EncodedImages(tensor, encode_ms=watch.lap_ms())

    def _encode_photos(self, images: Sequence[Image], cut: Cut) -> EncodedImages:
        watch = _Stopwatch()
        preprocessing = self.required_manifest().preprocessing
        crops = read_each(images, lambda image: im.crop(image, preprocessing))
        prepare_ms = watch.lap_ms()
        quality = MAX_QUALITY if cut.quality is None else cut.quality
        files = [write_photo(crop, cut.codec, quality) for crop in crops]
        tensor = encode_images(files, cut.coding)
        return EncodedImages(tensor, prepare_ms, encode_ms=watch.lap_ms())

    def _encode_pixels(self, images: Sequence[Image], cut: Cut) -> EncodedImages:
        watch = _Stopwatch()
        x = self._preprocessed(images)
        prepare_ms = watch.lap_ms()
        tensor = encode_activation(x, cut.coding, INPUT)
        return EncodedImages(tensor, prepare_ms, encode_ms=watch.lap_ms())

    def _encode_activation(self, images: Sequence[Image], cut: Cut) -> EncodedImages:
        watch = _Stopwatch()
        x = self._preprocessed(images)
        self._load(cut.split_point)
        self._transform(cut)  # loaded now, so that ``encode_ms`` does not contain it
        prepare_ms = watch.lap_ms()
        activation = self._run(cut.split_point, x)
        head_ms = watch.lap_ms()
        tensor = self.encode_activation(activation, cut)
        return EncodedImages(tensor, prepare_ms, head_ms, watch.lap_ms(), activation)

    def _preprocessed(self, images: Sequence[Image]) -> FloatArray:
        preprocessing = self.required_manifest().preprocessing
        return np.stack(read_each(images, lambda image: im.preprocess(image, preprocessing)))

    def _load(self, split_point: str) -> None:
        """Load a head at its first use, so that ``head_ms`` does not contain the loading."""
        load = getattr(self.runtime, "load", None)
        if load is not None:
            load(split_point)

    def _transform(self, cut: Cut) -> Transform | None:
        """The transform that the codec needs, read at its first use. Raises BundleError."""
        if not needs_transform(cut.first.coding):
            return None
        if cut.split_point not in self._transforms:
            self.required_manifest()
            assert self._bundle is not None  # noqa: S101  a manifest comes from a bundle
            self._transforms[cut.split_point] = self._bundle.transform(cut.split_point)
        return self._transforms[cut.split_point]

    def _run(self, split_point: str, x: FloatArray) -> FloatArray:
        self.required_manifest()
        assert self.runtime is not None  # noqa: S101  a client with a bundle has a runtime
        return self.runtime.run(split_point, x)


def read_each(images: Sequence[Image], read: Callable[[Image], _Read]) -> list[_Read]:
    """What ``read`` returns for each image. An ImageError of a batch says which image it is."""
    results = []
    for index, image in enumerate(images):
        try:
            results.append(read(image))
        except ImageError as error:
            if len(images) == 1:
                raise
            details = error.details | {"index": index}
            raise ImageError(f"images[{index}]: {error.message}", **details) from error
    return results


class _Stopwatch:
    def __init__(self) -> None:
        self._started = time.perf_counter()

    def lap_ms(self) -> float:
        """Milliseconds since the last call, or since the stopwatch was made."""
        now = time.perf_counter()
        lap = now - self._started
        self._started = now
        return lap * _MS_PER_S
