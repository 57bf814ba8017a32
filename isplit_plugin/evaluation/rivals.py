"""The naive rivals of every table: a JPEG to the server, everything on the device, codecs without training."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

from .. import image as im
from ..bottleneck import Photos
from ..errors import ImageError
from ..network import CapturedNetwork
from ..wire import decode_activation, encode_activation

__all__ = ["JPEG_QUALITIES", "TRAINING_FREE", "Rival", "codec_rivals", "image_rivals", "scan_bytes"]

JPEG_QUALITIES: Final = (2, 5, 10, 20, 35, 50, 70, 90)
TRAINING_FREE: Final = ("uint8+zstd", "q4+rle+zstd", "q2+rle+zstd")

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rival:
    """One way to offload without training: mean bytes for one image, top-1 accuracy, agreement with the full network.

    ``kind``: "jpeg", "jpeg-scan", "png", "device" or "codec". ``detail``: the quality, or the codec.
    """

    kind: str
    split_point: str
    detail: str
    nbytes: float
    accuracy: float
    agreement: float
    images: int

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def image_rivals(
    net: CapturedNetwork,
    photos: Photos,
    rows: Ids,
    top: Ids,
    *,
    qualities: Sequence[int] = JPEG_QUALITIES,
) -> list[Rival]:
    """The photo itself to the server: JPEG at several qualities, PNG (lossless); and nothing sent at all.

    "jpeg-scan" counts the entropy-coded scan alone: what is left of a JPEG where both sides know the tables, which are
    600 bytes of every file and most of a small one.
    """
    labels = photos.labels[rows]
    pictures = [PIL.Image.fromarray(photos.pixels(int(row))) for row in rows]
    found = []
    for quality in qualities:
        files = [_jpeg(picture, quality) for picture in pictures]
        inputs = np.stack(
            [
                im.normalize(im.load(data).convert(p.mode), photos.preprocessing)
                for data, p in zip(files, pictures, strict=True)
            ]
        )
        answer = _answers(net, inputs)
        right, same = _shares(answer, labels, top)
        for kind, sizes in (
            ("jpeg", [len(f) for f in files]),
            ("jpeg-scan", [scan_bytes(f) for f in files]),
        ):
            found.append(
                Rival(
                    kind,
                    "input",
                    f"quality {quality}",
                    float(np.mean(sizes)),
                    right,
                    same,
                    len(rows),
                )
            )
    right, _ = _shares(top, labels, top)
    png = float(np.mean([len(_png(picture)) for picture in pictures]))
    found.append(Rival("png", "input", "lossless", png, right, 1.0, len(rows)))
    found.append(Rival("device", "output", "nothing sent", 0.0, right, 1.0, len(rows)))
    return found


def codec_rivals(
    net: CapturedNetwork,
    split_points: Sequence[str],
    photos: Photos,
    rows: Ids,
    top: Ids,
    *,
    codecs: Sequence[str] = TRAINING_FREE,
    batch_size: int = 64,
) -> list[Rival]:
    """Codecs without training on the activation as it is, each image on its own. Raises UnknownCodecError."""
    labels = photos.labels[rows]
    like = torch.empty(0, dtype=net.dtype, device=net.device)
    found = []
    for name in split_points:
        head, tail = net.bisect(name)
        sizes: dict[str, list[int]] = {codec: [] for codec in codecs}
        answers: dict[str, list[Ids]] = {codec: [] for codec in codecs}
        for start in range(0, len(rows), batch_size):
            with torch.inference_mode():
                exact = (
                    head(photos.tensor(rows[start : start + batch_size], like))
                    .float()
                    .cpu()
                    .numpy()
                )
            for codec in codecs:
                decoded = np.empty_like(exact)
                for i in range(len(exact)):
                    tensor = encode_activation(exact[i : i + 1], codec)
                    sizes[codec].append(tensor.nbytes)
                    decoded[i] = decode_activation(tensor, shape=exact.shape[1:], max_batch=1)[0]
                with torch.inference_mode():
                    answers[codec].append(
                        tail(torch.from_numpy(decoded).to(like)).argmax(dim=1).cpu().numpy()
                    )
        for codec in codecs:
            right, same = _shares(np.concatenate(answers[codec]), labels, top)
            found.append(
                Rival("codec", name, codec, float(np.mean(sizes[codec])), right, same, len(rows))
            )
    return found


def scan_bytes(jpeg: bytes) -> int:
    """Bytes of a JPEG file behind its start-of-scan segment. Raises ImageError for bytes that are no JPEG file."""
    place = 2
    while place + 4 <= len(jpeg) and jpeg[place] == 0xFF:
        marker, length = jpeg[place + 1], int.from_bytes(jpeg[place + 2 : place + 4], "big")
        place += 2 + length
        if marker == 0xDA:
            return len(jpeg) - place
    raise ImageError("expected a JPEG file, found no start of scan")


def _jpeg(picture: PIL.Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _png(picture: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _answers(net: CapturedNetwork, inputs: npt.NDArray[np.float32], batch_size: int = 64) -> Ids:
    like = torch.empty(0, dtype=net.dtype, device=net.device)
    with torch.inference_mode():
        parts = [
            net.model(torch.from_numpy(inputs[i : i + batch_size]).to(like))
            .argmax(dim=1)
            .cpu()
            .numpy()
            for i in range(0, len(inputs), batch_size)
        ]
    return np.concatenate(parts)


def _shares(answer: Ids, labels: Ids, top: Ids) -> tuple[float, float]:
    known = labels >= 0
    right = float((answer[known] == labels[known]).mean()) if known.any() else float("nan")
    return right, float((answer == top).mean())
