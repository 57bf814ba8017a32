"""Baselines: ways to split, or not to split, that need no training.

They are the photo sent as JPEG or PNG, everything run on the device, and codecs applied to the
activation as it is.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

from .. import image
from ..bottleneck import Photos, Targets, input_batches
from ..errors import ImageError
from ..network import CapturedNetwork
from ..schema import INPUT, OUTPUT, FloatArray, Preprocessing
from ..wire import codings, decode_activation, encode_activation

__all__ = [
    "BASELINE_CODECS",
    "JPEG_QUALITIES",
    "Baseline",
    "codec_baselines",
    "image_baselines",
    "scan_bytes",
]

JPEG_QUALITIES: Final = (2, 5, 10, 20, 35, 50, 70, 90)
BASELINE_CODECS: Final = ("uint8+zstd", "q4+rle+zstd", "q2+rle+zstd")

_BATCH_SIZE: Final = 64
_START_OF_SCAN: Final = 0xDA

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Baseline:
    """One baseline, measured.

    Attributes:
        kind: "jpeg", "jpeg-scan", "png", "device" or "codec".
        split_point: where it cuts.
        detail: the JPEG quality or the codec.
        nbytes: mean bytes of one image.
        accuracy: share of the labelled images whose top-1 class equals the label.
        agreement: share of the images whose top-1 class equals the full network's.
        images: number of images.
    """

    kind: str
    split_point: str
    detail: str
    nbytes: float
    accuracy: float
    agreement: float
    images: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def image_baselines(
    net: CapturedNetwork,
    photos: Photos,
    targets: Targets,
    *,
    qualities: Sequence[int] = JPEG_QUALITIES,
) -> list[Baseline]:
    """The baselines that do not split: JPEG at several qualities, PNG, and nothing sent.

    "jpeg-scan" counts only the entropy-coded scan of the JPEG file: what remains to be sent if
    both sides know the tables. The tables and headers are 300 to 600 bytes, most of a small file.
    """
    pictures = [PIL.Image.fromarray(photos.pixels(int(row))) for row in targets.rows]
    baselines = []
    for quality in qualities:
        files = [_jpeg(picture, quality) for picture in pictures]
        answers = _classify(net, _decoded_inputs(files, pictures[0].mode, photos.preprocessing))
        for kind, sizes in (
            ("jpeg", [len(file) for file in files]),
            ("jpeg-scan", [scan_bytes(file) for file in files]),
        ):
            detail = f"quality {quality}"
            baselines.append(
                _baseline(
                    targets, answers, kind=kind, split_point=INPUT, detail=detail, sizes=sizes
                )
            )
    exact = partial(_baseline, targets, targets.top1)
    png = [len(_png(picture)) for picture in pictures]
    baselines.append(exact(kind="png", split_point=INPUT, detail="lossless", sizes=png))
    baselines.append(exact(kind="device", split_point=OUTPUT, detail="nothing sent", sizes=[0]))
    return baselines


def codec_baselines(
    net: CapturedNetwork,
    split_points: Sequence[str],
    photos: Photos,
    targets: Targets,
    *,
    codecs: Sequence[str] = BASELINE_CODECS,
) -> list[Baseline]:
    """Codecs, each in all its qualities, applied to the activation of each image on its own.

    Raises UnknownCodecError.
    """
    baselines: list[Baseline] = []
    codecs = codings(codecs)
    for split_point in split_points:
        head, tail = net.bisect(split_point)
        sizes: dict[str, list[int]] = {codec: [] for codec in codecs}
        answers: dict[str, list[Ids]] = {codec: [] for codec in codecs}
        for x in input_batches(net, photos, targets.rows, _BATCH_SIZE):
            with torch.inference_mode():
                activation = head(x).float().cpu().numpy()
            for codec in codecs:
                decoded, nbytes = _transmit(codec, activation)
                sizes[codec] += nbytes
                with torch.inference_mode():
                    scores = tail(torch.from_numpy(decoded).to(x))
                answers[codec].append(scores.argmax(dim=1).cpu().numpy())
        baselines += [
            _baseline(
                targets,
                np.concatenate(answers[codec]),
                kind="codec",
                split_point=split_point,
                detail=codec,
                sizes=sizes[codec],
            )
            for codec in codecs
        ]
    return baselines


def scan_bytes(jpeg: bytes) -> int:
    """Bytes of a JPEG file after its start-of-scan segment.

    Raises ImageError if the bytes are not a JPEG file.
    """
    position = 2
    while position + 4 <= len(jpeg) and jpeg[position] == 0xFF:
        marker = jpeg[position + 1]
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if marker == _START_OF_SCAN:
            return len(jpeg) - position
    raise ImageError("expected a JPEG file, got one without a start of scan")


def _baseline(
    targets: Targets,
    answers: Ids,
    *,
    kind: str,
    split_point: str,
    detail: str,
    sizes: Sequence[int],
) -> Baseline:
    labels = targets.labels.numpy()
    labelled = labels >= 0
    return Baseline(
        kind=kind,
        split_point=split_point,
        detail=detail,
        nbytes=float(np.mean(sizes)),
        accuracy=float((answers == labels)[labelled].mean()) if labelled.any() else float("nan"),
        agreement=float((answers == targets.top1).mean()),
        images=len(labels),
    )


def _jpeg(picture: PIL.Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _png(picture: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _decoded_inputs(files: Sequence[bytes], mode: str, preprocessing: Preprocessing) -> FloatArray:
    """Network inputs (n, C, H, W) from image files."""
    return np.stack(
        [image.normalize(image.load(file).convert(mode), preprocessing) for file in files]
    )


def _classify(net: CapturedNetwork, inputs: FloatArray) -> Ids:
    """The full network's top-1 classes."""
    with torch.inference_mode():
        batches = [
            net.model(batch.to(net.device, net.dtype)).argmax(dim=1).cpu().numpy()
            for batch in torch.split(torch.from_numpy(inputs), _BATCH_SIZE)
        ]
    return np.concatenate(batches)


def _transmit(codec: str, activations: FloatArray) -> tuple[FloatArray, list[int]]:
    """Each activation encoded and decoded, and its bytes."""
    decoded = np.empty_like(activations)
    nbytes = []
    for i in range(len(activations)):
        tensor = encode_activation(activations[i : i + 1], codec)
        nbytes.append(tensor.nbytes)
        decoded[i] = decode_activation(tensor, shape=activations.shape[1:], max_batch=1)[0]
    return decoded, nbytes
