"""Merging what several processes measured on their shares of the calibration set.

The values of every photo travel, not sums: put in the photos' order, they give the sums of one
process to the last bit, and median times need them anyway.
"""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from ..hashed_arrays import Arrays
from ..schema import Cut
from .calibration_pass import CalibrationPass, SkippedImages
from .processes import Processes
from .samples import COLUMNS, Samples

__all__ = ["merge"]

_LISTS: Final = ("numbers", "target", "top", "labels")
_NO_LABEL: Final = -1
_TIMES: Final = slice(1, 3)
"""The rows of ``Samples.to_array`` that are times."""


def merge(calibration: CalibrationPass, processes: Processes) -> None:
    """Put what every process measured into ``calibration`` of the first one.

    The times of codecs are those of the first process's photos, as it measures the times of head
    and tail, unless it had none. Raises IsplitError if another process ended.
    """
    if processes.count == 1:
        return
    shares = [safetensors.numpy.load(data) for data in processes.gather(_packed(calibration))]
    if not shares:
        return
    lists = {name: np.concatenate([share[name] for share in shares]) for name in _LISTS}
    order = np.argsort(lists["numbers"])
    calibration.numbers = lists["numbers"][order].tolist()
    calibration.target = lists["target"][order].tolist()
    calibration.top = lists["top"][order].tolist()
    labels = lists["labels"][order].tolist()
    calibration.labels = [None if label == _NO_LABEL else label for label in labels]
    values = [share["importance"] for share in shares if len(share["numbers"])]
    calibration.importance = [np.concatenate(values)[order]] if values else []
    descriptions = [json.loads(share["description"].tobytes()) for share in shares]
    calibration.skipped = SkippedImages(
        (int(number), str(name), str(reason))
        for description in descriptions
        for number, name, reason in description["skipped"]
    )
    calibration.photo_meter.dropped = {
        Cut.parse(text) for description in descriptions for text in description["dropped"]
    }
    for name, meter in _meters(calibration).items():
        cuts = [description[name] for description in descriptions]
        samples = [share[name] for share in shares]
        meter.samples = _merged_samples(cuts, samples, order)


def _packed(calibration: CalibrationPass) -> bytes:
    description: dict[str, Any] = {
        "skipped": calibration.skipped.images,
        "dropped": [str(cut) for cut in calibration.photo_meter.dropped],
    }
    numbers = np.asarray(calibration.numbers, np.int64)
    labels = [_NO_LABEL if label is None else label for label in calibration.labels]
    points = len(calibration.net.split_points)
    arrays: Arrays = {
        "numbers": numbers,
        "target": np.asarray(calibration.target, np.int64),
        "top": np.asarray(calibration.top, np.int64),
        "labels": np.asarray(labels, np.int64),
        "importance": np.concatenate([np.zeros((0, points)), *calibration.importance]),
    }
    for name, meter in _meters(calibration).items():
        description[name] = [str(cut) for cut in meter.samples]
        rows = [samples.to_array() for samples in meter.samples.values()]
        arrays[name] = np.stack(rows) if rows else np.zeros((0, COLUMNS, len(numbers)))
    arrays["description"] = np.frombuffer(json.dumps(description).encode(), np.uint8)
    return bytes(safetensors.numpy.save(arrays))


def _meters(calibration: CalibrationPass) -> dict[str, Any]:
    return {
        "codecs": calibration.meter,
        "photos": calibration.photo_meter,
        **{f"loss {meter.loss}": meter for meter in calibration.loss_meters},
    }


def _merged_samples(
    cuts: list[list[str]],
    samples: list[npt.NDArray[np.float64]],
    order: npt.NDArray[np.intp],
) -> dict[Cut, Samples]:
    """Each cut's samples, from the cuts and the arrays (cuts, COLUMNS, photos) of every process."""
    merged = {}
    for text in dict.fromkeys(text for share in cuts for text in share):
        rows = [
            array[share.index(text)] if text in share else np.full(array.shape[1:], np.nan)
            for share, array in zip(cuts, samples, strict=True)
        ]
        if np.isfinite(rows[0][_TIMES]).any():
            for others in rows[1:]:
                others[_TIMES] = np.nan
        merged[Cut.parse(text)] = Samples.of(np.concatenate(rows, axis=1)[:, order])
    return merged
