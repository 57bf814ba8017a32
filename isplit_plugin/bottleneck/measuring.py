"""Measuring a bottleneck: bytes of its code with each codec, agreement and accuracy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean, median
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..errors import WireError
from ..network import CapturedNetwork
from ..schema import Cut, FloatArray
from ..wire import codec_names, codings, decode_activation, encode_activation, request_bytes
from .features import Targets, compute_targets
from .parts import decoder_tail, encoder_head
from .photos import Photos, input_batches
from .trained import Bottleneck, CodeMeasurement

__all__ = ["measure_codes", "quantised_codecs"]

_BATCH_SIZE: Final = 64
_NO_CLASS: Final = -1

Ids = npt.NDArray[np.int64]


def quantised_codecs() -> tuple[str, ...]:
    """The codings of all registered codecs except the floating-point ones."""
    names = (name for name in codec_names() if not name.startswith(("fp32", "fp16")))
    return codings(names)


def measure_codes(
    net: CapturedNetwork,
    bottleneck: Bottleneck,
    photos: Photos,
    *,
    codecs: Sequence[str] | None = None,
    targets: Targets | None = None,
) -> tuple[CodeMeasurement, ...]:
    """Encode, decode and classify the code of each photo on its own, with each codec.

    Parameters:
        codecs: codecs, each in all its qualities, and codings; ``None`` takes
            :func:`quantised_codecs`.
        targets: which photos to measure on, with the full network's scores. ``None`` takes all
            photos and runs the full network on them.

    Raises:
        UnknownCodecError: a codec or one of its qualities is not registered.
    """
    if targets is None:
        targets = compute_targets(net, photos, np.arange(len(photos)))
    codes = _encode(net, bottleneck, photos, targets.rows)
    tail = decoder_tail(net, bottleneck)
    # Codecs that differ only in their lossless part give the tail the same values.
    answers_by_quantiser: dict[str, list[tuple[FloatArray, Ids]]] = {}
    measurements = []
    for codec in quantised_codecs() if codecs is None else codings(codecs):
        decoded, costs = _transmit(Cut.of(bottleneck.deployed_name, codec), codes)
        cache = answers_by_quantiser.setdefault(codec.partition("+")[0], [])
        answers = next((a for d, a in cache if np.array_equal(d, decoded, equal_nan=True)), None)
        if answers is None:
            answers = _classify(net, tail, decoded)
            cache.append((decoded, answers))
        measurements.append(_measurement(codec, costs, answers, targets, net.classes))
    return tuple(measurements)


def _encode(net: CapturedNetwork, bottleneck: Bottleneck, photos: Photos, rows: Ids) -> FloatArray:
    """The codes (n, *code_shape) of these photos."""
    head = encoder_head(net, bottleneck)
    with torch.inference_mode():
        batches = [
            head(x).float().cpu().numpy() for x in input_batches(net, photos, rows, _BATCH_SIZE)
        ]
    return np.concatenate(batches)


def _transmit(cut: Cut, codes: FloatArray) -> tuple[FloatArray, tuple[float, float, float]]:
    """Each code encoded and decoded; mean bytes and median milliseconds to encode and to decode.

    A code that cannot be encoded because it is not finite becomes NaN.
    """
    decoded = np.full_like(codes, np.nan)
    nbytes: list[float] = []
    encode_ms: list[float] = []
    decode_ms: list[float] = []
    for i in range(len(codes)):
        start = time.perf_counter()
        try:
            tensor = encode_activation(codes[i : i + 1], cut.coding)
            encoded = time.perf_counter()
            decoded[i] = decode_activation(tensor, shape=codes.shape[1:], max_batch=1)[0]
        except WireError:
            continue
        end = time.perf_counter()
        nbytes.append(request_bytes(cut, tensor))
        encode_ms.append(1e3 * (encoded - start))
        decode_ms.append(1e3 * (end - encoded))
    if not nbytes:
        return decoded, (0.0, 0.0, 0.0)
    return decoded, (fmean(nbytes), median(encode_ms), median(decode_ms))


def _classify(net: CapturedNetwork, tail: nn.Module, codes: FloatArray) -> Ids:
    """The top-1 class of each code, -1 for a code that is not finite."""
    with torch.inference_mode():
        batches = [
            tail(torch.from_numpy(batch).to(net.device, net.dtype)).argmax(dim=1).cpu().numpy()
            for batch in np.array_split(codes, max(1, len(codes) // _BATCH_SIZE))
        ]
    answers: Ids = np.concatenate(batches)
    answers[np.isnan(codes).reshape(len(codes), -1).any(axis=1)] = _NO_CLASS
    return answers


def _measurement(
    codec: str,
    costs: tuple[float, float, float],
    answers: Ids,
    targets: Targets,
    classes: int,
) -> CodeMeasurement:
    top1 = targets.top1
    labels = targets.labels.numpy()
    labelled = labels >= 0

    def count(ids: Ids) -> Ids:
        return np.bincount(ids, minlength=classes).astype(np.int64)

    return CodeMeasurement(
        codec,
        *costs,
        images=count(top1),
        agreeing=count(top1[answers == top1]),
        labelled=count(labels[labelled]),
        correct=count(labels[labelled & (answers == labels)]),
    )
