"""What a bottleneck costs and what it changes: bytes of its code under each codec, agreement, accuracy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean, median

import numpy as np
import numpy.typing as npt
import torch

from ..errors import WireError
from ..network import CapturedNetwork
from ..schema import FloatArray
from ..wire import codec_names, decode_activation, encode_activation
from .features import Teacher, teach
from .photos import Photos
from .trained import Bottleneck, CodeMeasurement, decoder_tail, encoder_head

Ids = npt.NDArray[np.int64]

__all__ = ["measure", "quantised_codecs"]


def quantised_codecs() -> tuple[str, ...]:
    """Every codec of this process but the floating-point ones."""
    return tuple(name for name in codec_names() if not name.startswith(("fp32", "fp16")))


def measure(
    net: CapturedNetwork,
    bottleneck: Bottleneck,
    photos: Photos,
    *,
    codecs: Sequence[str] | None = None,
    rows: Ids | None = None,
    teacher: Teacher | None = None,
    batch_size: int = 64,
) -> tuple[CodeMeasurement, ...]:
    """Encode, decode and classify photos (all, or these ``rows``) with each codec, each image on its own.

    ``teacher``: the full network's answers to the same rows where they are known already.
    Raises UnknownCodecError.
    """
    if teacher is None:
        teacher = teach(
            net, photos, np.arange(len(photos)) if rows is None else rows, batch_size=batch_size
        )
    head, tail = encoder_head(net, bottleneck), decoder_tail(net, bottleneck)
    like = torch.empty(0, dtype=net.dtype, device=net.device)
    top = teacher.scores.argmax(dim=1).numpy()
    labels = teacher.labels.numpy()
    with torch.inference_mode():
        codes = [
            head(photos.tensor(teacher.rows[i : i + batch_size], like)).float().cpu().numpy()
            for i in range(0, len(teacher.rows), batch_size)
        ]
    code = np.concatenate(codes)
    known = labels >= 0
    # Codecs that differ in their lossless part alone give the tail the same values.
    seen: dict[str, list[tuple[FloatArray, Ids]]] = {}
    found = []
    for codec in quantised_codecs() if codecs is None else codecs:
        decoded, cost = _through(codec, code)
        alike = seen.setdefault(codec.partition("+")[0], [])
        answer = next((a for d, a in alike if np.array_equal(d, decoded, equal_nan=True)), None)
        if answer is None:
            with torch.inference_mode():
                parts = np.array_split(decoded, max(1, len(decoded) // batch_size))
                top1 = [
                    tail(torch.from_numpy(part).to(like)).argmax(dim=1).cpu().numpy()
                    for part in parts
                ]
            answer = np.concatenate(top1)
            answer[np.isnan(decoded).reshape(len(decoded), -1).any(axis=1)] = -1
            alike.append((decoded, answer))
        found.append(
            CodeMeasurement(
                codec,
                *cost,
                seen=_count(top, net.classes),
                agree=_count(top[answer == top], net.classes),
                labelled=_count(labels[known], net.classes),
                correct=_count(labels[known & (answer == labels)], net.classes),
            )
        )
    return tuple(found)


def _through(codec: str, code: FloatArray) -> tuple[FloatArray, tuple[float, float, float]]:
    """What comes out of a codec, item by item (NaN: it cannot travel); mean bytes, median ms to encode and decode."""
    costs: list[tuple[float, float, float]] = []
    decoded = np.full_like(code, np.nan)
    for i in range(len(code)):
        start = time.perf_counter()
        try:
            tensor = encode_activation(code[i : i + 1], codec)
            middle = time.perf_counter()
            decoded[i] = decode_activation(tensor, shape=code.shape[1:], max_batch=1)[0]
        except WireError:  # a code that is not finite: the choice fails for this image
            continue
        costs.append((tensor.nbytes, 1e3 * (middle - start), 1e3 * (time.perf_counter() - middle)))
    if not costs:
        return decoded, (0.0, 0.0, 0.0)
    nbytes, encode, decode = zip(*costs, strict=True)
    return decoded, (fmean(nbytes), median(encode), median(decode))


def _count(ids: Ids, classes: int) -> Ids:
    return np.bincount(ids, minlength=classes).astype(np.int64)
