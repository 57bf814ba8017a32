"""Heads in int8: what they save on this machine, and what they do to the answer.

``python -m benchmarks int8 --data FOLDER`` quantises heads with onnxruntime's static quantisation,
per channel. 100 photos of the folder calibrate (``--photo-counts 100,200``), 200 others are measured:
onnxruntime runs the head, in int8, and PyTorch the tail, in float32. The rows of a head say

* its time by that of the float32 head, runs taking turns, on one thread and on two;
* on how many photos the class is the full network's, with a 95 % interval (Clopper & Pearson 1934);
* the mean Kullback-Leibler divergence from the full network's answer, in nats.

The codec is left out: it would come on top. The forms differ in how activations are calibrated
(extremes, entropy, percentile), in the format (QDQ, QOperator), in signed and unsigned activations
(S8S8, U8S8), in whether some convolutions stay in float, and in bias correction: the mean error of
each channel of the head's output on the calibration photos is subtracted (after Nagel et al.,
"Data-Free Quantization", ICCV 2019, section 4.2, here for the last layer alone). ``--cuts`` picks
the heads; with ``--resnet50`` that of ResNet-50 is measured, too.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data
from onnxruntime.quantization.shape_inference import quant_pre_process
from scipy.stats import binomtest

from isplit_plugin.network import CapturedNetwork, capture, export_head
from isplit_plugin.schema import FloatArray

from . import transform
from .harness import Row, against, interleaved, row, table
from .subjects import drawn_photos, inputs, networks, one_thread

DEFAULT_CUTS: Final = {"efficientnet-lite0": ("_blocks.5",), "resnet50": ("layer2",)}
DEFAULT_COUNTS: Final = "100,200"
FLOAT: Final = "float32"
_PART: Final = 4  # photos whose tensors the calibration holds at a time


@dataclass(frozen=True)
class Form:
    """A way to quantise a head.

    Attributes:
        calibration: how ranges follow from the calibration photos.
        quant_format: the format of the file.
        signed: whether activations are signed.
        first, last: how many of the first and of the last convolutions stay in float32.
        corrected: whether the mean error of each channel is subtracted.
        narrow: whether weights have 7 bits: x86 without VNNI adds two products of U8S8 in 16 bits,
            which 8 bits overflow.
    """

    calibration: CalibrationMethod = CalibrationMethod.MinMax
    quant_format: QuantFormat = QuantFormat.QDQ
    signed: bool = False
    first: int = 0
    last: int = 0
    corrected: bool = False
    narrow: bool = False


BASE: Final = "QDQ, U8S8, extremes"
FORMS: Final = {
    BASE: Form(),
    "QOperator": Form(quant_format=QuantFormat.QOperator),
    "S8S8": Form(signed=True),
    "entropy": Form(CalibrationMethod.Entropy),
    "percentile": Form(CalibrationMethod.Percentile),
    "first and last layer in float": Form(first=1, last=1),
    "first 3 in float": Form(first=3),
    "bias corrected": Form(corrected=True),
    "first and last layer in float, bias corrected": Form(first=1, last=1, corrected=True),
    "first 3 in float, bias corrected": Form(first=3, corrected=True),
    "first 3 in float, bias corrected, 7 bits": Form(first=3, corrected=True, narrow=True),
    "first 3 in float, bias corrected, entropy": Form(
        CalibrationMethod.Entropy, first=3, corrected=True
    ),
}
"""What is named differs from the first."""
TIMED: Final = (BASE, "QOperator", "S8S8", "first and last layer in float", "first 3 in float")


class Reader(CalibrationDataReader):  # type: ignore[misc]  # without annotations
    """Hands inputs (N, C, H, W) to the calibration one by one."""

    def __init__(self, values: FloatArray) -> None:
        self._items = iter(values)

    def get_next(self) -> dict[str, FloatArray] | None:
        item = next(self._items, None)
        return None if item is None else {"input": item[None]}


def run(quick: bool = False) -> list[Row]:
    """Rows for each head and form."""
    counts = "8,8" if quick else os.environ.get(transform.COUNTS, DEFAULT_COUNTS)
    calibrating, measured = (int(word) for word in counts.split(","))
    files = drawn_photos(calibrating + measured)
    if not files:
        return []
    rows: list[Row] = []
    with one_thread():
        for network, loaded, cuts in networks(DEFAULT_CUTS):
            net = capture(loaded.model, loaded.example_input)
            for cut in cuts:
                x = inputs(loaded, files)
                with tempfile.TemporaryDirectory(prefix="isplit-int8-") as folder:
                    head = Head(net, cut, x[:calibrating], x[calibrating:], folder=Path(folder))
                    rows += _head_rows(f"{network} {cut}", head, rounds=3 if quick else 40)
                print(table(rows), file=sys.stderr, flush=True)
    return rows


class Head:
    """One head, its photos, and its files in a folder."""

    def __init__(
        self,
        net: CapturedNetwork,
        cut: str,
        calibrating: torch.Tensor,
        measured: torch.Tensor,
        *,
        folder: Path,
    ) -> None:
        self._folder = folder
        self.calibrating = calibrating.numpy()
        self.measured = measured.numpy()
        self.tail = net.bisect(cut)[1]
        with torch.inference_mode():
            scores = [net.model(part) for part in measured.split(10)]
            self.full = torch.cat(scores).log_softmax(dim=1)
        self.file = folder / "head.onnx"
        export_head(net, cut, self.file)
        self.prepared = folder / "prepared.onnx"
        quant_pre_process(str(self.file), str(self.prepared), skip_symbolic_shape=True)
        graph = onnx.load(self.prepared).graph
        self.convolutions = [node.name for node in graph.node if node.op_type == "Conv"]

    def quantised(self, form: Form) -> Path:
        """The file of the head in this form; without bias correction, which is no part of it."""
        calibration, quant_format = form.calibration.name, form.quant_format.name
        choices = form.signed, form.first, form.last, form.narrow
        path = self._folder / f"{calibration}-{quant_format}-{choices}.onnx"
        if not path.exists():
            quantize_static(
                str(self.prepared),
                str(path),
                None,
                quant_format=form.quant_format,
                per_channel=True,
                reduce_range=form.narrow,
                activation_type=QuantType.QInt8 if form.signed else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[
                    *self.convolutions[: form.first],
                    *self.convolutions[len(self.convolutions) - form.last :],
                ],
                calibrate_method=form.calibration,
                calibration_cache_path=str(self._ranges(form.calibration)),
            )
        return path

    def _ranges(self, calibration: CalibrationMethod) -> Path:
        """The file of the ranges, found a few photos at a time: all tensors of all take gigabytes."""
        path = self._folder / f"{calibration.name}.json"
        if not path.exists():
            calibrator = create_calibrator(
                str(self.prepared),
                augmented_model_path=str(self._folder / "augmented.onnx"),
                calibrate_method=calibration,
            )
            for start in range(0, len(self.calibrating), _PART):
                calibrator.collect_data(Reader(self.calibrating[start : start + _PART]))
            save_tensors_data(calibrator.compute_data(), path)
        return path


def _session(path: Path, threads: int) -> Callable[[FloatArray], FloatArray]:
    """Inputs (N, C, H, W) -> activations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: np.asarray(session.run(None, {"input": x})[0])


def _head_rows(label: str, head: Head, *, rounds: int) -> list[Row]:
    exact = _session(head.file, 1)
    expected = np.concatenate([exact(item[None]) for item in head.calibrating])
    rows = [_answer_row(f"{label} {FLOAT}", head, exact)]
    for name, form in FORMS.items():
        run = _session(head.quantised(form), 1)
        shift = np.float32(0)
        if form.corrected:
            own = np.concatenate([run(item[None]) for item in head.calibrating])
            shift = (expected - own).mean(axis=(0, 2, 3))[:, None, None]
        rows.append(_answer_row(f"{label} {name}", head, partial(_shifted, run, shift)))
        print(table(rows[-1:]), file=sys.stderr, flush=True)
    return rows + list(_time_rows(label, head, rounds))


def _shifted(
    run: Callable[[FloatArray], FloatArray], shift: FloatArray | np.float32, x: FloatArray
) -> FloatArray:
    return np.asarray(run(x) + shift)


def _answer_row(label: str, head: Head, run: Callable[[FloatArray], FloatArray]) -> Row:
    """Agreement and divergence over the measured photos."""
    with torch.inference_mode():
        scores = torch.cat([head.tail(torch.from_numpy(run(x[None]))) for x in head.measured])
    answers = scores.log_softmax(dim=1)
    agreeing = int((answers.argmax(dim=1) == head.full.argmax(dim=1)).sum())
    divergence = float((head.full.exp() * (head.full - answers)).sum(dim=1).mean())
    low, high = binomtest(agreeing, len(scores)).proportion_ci()
    return row(
        f"{label}: divergence {divergence:.4f} nats, agreement, 95 % of {low:.1%} to {high:.1%}",
        100 * agreeing / len(scores),
        "%",
        divergence=divergence,
        low=float(low),
        high=float(high),
        photos=len(scores),
    )


def _time_rows(label: str, head: Head, rounds: int) -> Iterator[Row]:
    """Times of all forms in turn. Bias correction costs none: it goes into the last bias."""
    x = head.measured[:1]
    for threads in (1, 2):
        runs = {FLOAT: _session(head.file, threads)}
        runs |= {name: _session(head.quantised(FORMS[name]), threads) for name in TIMED}
        jobs: dict[str, Callable[[], object]] = {n: partial(r, x) for n, r in runs.items()}
        times = interleaved(jobs, rounds=rounds, warmup=5)
        for name in TIMED:
            yield against(f"{label} {name}, {threads} threads", times, name, FLOAT)
