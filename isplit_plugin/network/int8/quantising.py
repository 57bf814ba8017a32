"""Making heads in int8: onnxruntime's static quantisation, and a correction of what it shifts.

Weights have a scale for each output channel, activations one for each tensor, from their extremes
on calibration photos. Weights have 7 bits: an x86 without VNNI adds two products of 8 bits in 16
bits, which would overflow unnoticed, and one head serves all devices.

Quantising shifts the mean of a channel. The mean error of each channel of the activation on the
same photos is added again (after Nagel et al., "Data-Free Quantization Through Weight Equalization
and Bias Correction", ICCV 2019, section 4.2; here only where the head ends).

The first convolutions may stay in float32: they have few channels and large maps, so that little is
won, and their errors reach everything behind them. How many is decided by time.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch

from ... import image as im
from ...errors import ArtifactError, CaptureError, DataError, ImageError
from ...schema import FloatArray, Preprocessing
from ..captured_network import CapturedNetwork
from ..execution import cpu_threads, on_device
from ..export import export_head
from ..progress import Progress, reporter
from .heads import Int8Heads, session

PHOTOS: Final = 100
"""How many photos calibrate a head."""
MIN_PHOTOS: Final = 8
FLOAT_LAYERS: Final = (0, 3)
"""How many of the first convolutions stay in float32: the faster one is taken."""
_ROUNDS: Final = 15
_WARM_UP: Final = 3
_PART: Final = 4  # photos whose tensors are held at a time


def quantise_heads(
    net: CapturedNetwork,
    images: Sequence[tuple[im.Image, int | None]],
    *,
    preprocessing: Preprocessing,
    split_points: Sequence[str],
    progress: bool | Progress | None = None,
) -> Int8Heads:
    """Make a head in int8 for each split point, calibrated on the first photos.

    Parameters:
        images: with their class ids, which are not used. The first :data:`PHOTOS` that can be read
            calibrate.
        progress: ``True`` for a bar on stderr, or a function (:data:`Progress`), called with the
            number of heads.

    Raises:
        DataError: fewer than :data:`MIN_PHOTOS` photos can be read.
        ArtifactError: onnx or onnxruntime is not installed.
        CaptureError: a head cannot be exported or quantised.
        SplitPointError, UnknownSplitPointError: for ``split_points``.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        raise ArtifactError(
            "int8 heads take onnx and onnxruntime: pip install isplit-plugin[onnx,torch]"
        ) from error
    inputs = _inputs(images, preprocessing)
    names = [net.split_point(name).name for name in split_points]
    on_cpu = on_device(net, "cpu")
    files: dict[str, bytes] = {}
    with (
        cpu_threads(None),
        tempfile.TemporaryDirectory(prefix="isplit-int8-") as folder,
        reporter(progress, len(names), "int8 heads") as report,
    ):
        layers: int | None = None
        for number, name in enumerate(reversed(names)):
            head = _Head(on_cpu, name, inputs, Path(folder) / str(number))
            if layers is None:  # the deepest head decides for all
                layers = head.fastest()
            files[name] = head.corrected(layers, on_cpu.split_point(name).channel_axis)
            report(number + 1)
    return Int8Heads(
        net.network_hash(preprocessing), {name: files[name] for name in names}, layers or 0
    )


def _inputs(
    images: Sequence[tuple[im.Image, int | None]], preprocessing: Preprocessing
) -> FloatArray:
    inputs: list[FloatArray] = []
    for image, _ in images:
        with suppress(ImageError):
            inputs.append(im.preprocess(image, preprocessing))
        if len(inputs) == PHOTOS:
            break
    if len(inputs) < MIN_PHOTOS:
        raise DataError(f"int8 heads take at least {MIN_PHOTOS} photos, got {len(inputs)}")
    return np.stack(inputs)


class _Head:
    """One head, and its quantised forms, in a folder of their own."""

    def __init__(self, net: CapturedNetwork, name: str, inputs: FloatArray, folder: Path) -> None:
        import onnx
        from onnxruntime.quantization.shape_inference import quant_pre_process

        folder.mkdir()
        self._name = name
        self._inputs = inputs
        self._folder = folder
        self._exact = folder / "head.onnx"
        export_head(net, name, self._exact)
        self._prepared = folder / "prepared.onnx"
        with _errors(name):
            quant_pre_process(str(self._exact), str(self._prepared), skip_symbolic_shape=True)
        nodes = onnx.load(self._prepared).graph.node
        self._convolutions = [node.name for node in nodes if node.op_type == "Conv"]

    def fastest(self) -> int:
        """How many of the first convolutions stay in float32."""
        choices = [count for count in FLOAT_LAYERS if count < len(self._convolutions)] or [0]
        sessions = {count: session(self._quantised(count).read_bytes()) for count in choices}
        times: dict[int, list[float]] = {count: [] for count in choices}
        for number in range(_WARM_UP + _ROUNDS):
            for count, runner in sessions.items():
                start = time.perf_counter()
                runner.run(None, {"input": self._inputs[:1]})
                if number >= _WARM_UP:
                    times[count].append(time.perf_counter() - start)
        return min(choices, key=lambda count: median(times[count]))

    def corrected(self, layers: int, channel_axis: int) -> bytes:
        """The head in int8, with the mean error of each channel added to what it puts out.

        An activation that is never negative, as behind a ReLU, stays as it is: its zeros are worth
        more to codecs.
        """
        import onnx

        model = onnx.load(self._quantised(layers))
        exact = self._run(self._exact.read_bytes())
        if exact.min() < 0:
            own = self._run(model.SerializeToString())
            others = tuple(axis for axis in range(exact.ndim) if axis != channel_axis)
            shift = (exact - own).mean(axis=others, keepdims=True)
            _add(model, shift.astype(np.float32))
        onnx.helper.set_model_props(
            model, {"isplit_split_point": self._name, "isplit_precision": "int8"}
        )
        return bytes(model.SerializeToString(deterministic=True))

    def _run(self, data: bytes) -> FloatArray:
        runner = session(data, torch.get_num_threads())
        return np.concatenate([runner.run(None, {"input": item[None]})[0] for item in self._inputs])

    def _quantised(self, layers: int) -> Path:
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )

        path = self._folder / f"{layers}.onnx"
        if not path.exists():
            with _errors(self._name):
                quantize_static(
                    str(self._prepared),
                    str(path),
                    None,
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    reduce_range=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    nodes_to_exclude=self._convolutions[:layers],
                    calibrate_method=CalibrationMethod.MinMax,
                    calibration_cache_path=str(self._ranges()),
                )
        return path

    def _ranges(self) -> Path:
        """The file of the ranges, found a few photos at a time: all tensors of all take gigabytes."""
        from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data

        path = self._folder / "ranges.json"
        if not path.exists():
            calibrator = create_calibrator(
                str(self._prepared), augmented_model_path=str(self._folder / "augmented.onnx")
            )
            for start in range(0, len(self._inputs), _PART):
                calibrator.collect_data(_Reader(self._inputs[start : start + _PART]))
            save_tensors_data(calibrator.compute_data(), path)
        return path


class _Reader:
    """Hands inputs (N, ...) to the calibration one by one."""

    def __init__(self, inputs: FloatArray) -> None:
        self._items = iter(inputs)

    def get_next(self) -> dict[str, FloatArray] | None:
        item = next(self._items, None)
        return None if item is None else {"input": item[None]}


def _add(model: Any, shift: FloatArray) -> None:
    """Add ``shift`` to what a model puts out."""
    from onnx import helper, numpy_helper

    graph = model.graph
    (output,) = graph.output
    before = f"{output.name}.uncorrected"
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == output.name:
                    names[place] = before
    graph.initializer.append(numpy_helper.from_array(shift, f"{output.name}.shift"))
    graph.node.append(
        helper.make_node("Add", [before, f"{output.name}.shift"], [output.name], "correction")
    )


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """Quantise quietly; turn whatever onnxruntime raises into a CaptureError."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # onnxruntime writes to the root logger
    try:
        yield
    except Exception as error:  # errors of onnx, onnxruntime and protobuf have no common base
        raise CaptureError(
            f"the head of {name!r} cannot be quantised: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    finally:
        logger.setLevel(level)
