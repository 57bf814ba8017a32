"""The photo as a rival: bytes, agreement and time of JPEG, WebP and AVIF on EfficientNet-Lite0.

The ladder of qualities is measured on all photos. The effort of the encoders, chroma and smaller
photos are measured on the first few. The photos are those of ``--photos FOLDER``, or the 20 ImageNet
photos that come with foolbox.
"""

from __future__ import annotations

import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL.Image
import torch

from isplit_plugin import image
from isplit_plugin.demo.photos import labelled_photos
from isplit_plugin.network import LoadedNetwork, efficientnet_lite0
from isplit_plugin.photo_codecs import write_photo
from isplit_plugin.schema import FloatArray

from .harness import Row, row

VARIABLE: Final = "ISPLIT_BENCHMARK_PHOTOS"
"""The environment variable with the folder of photos."""
LADDER: Final = {"jpeg": (98, 95, 90, 85, 75), "webp": (98, 95, 90, 85, 75),
                 "avif": (98, 95, 90, 85, 80, 70, 60)}  # fmt: skip
VARIANT_PHOTOS: Final = 60

Write = Callable[[PIL.Image.Image], bytes]


@dataclass
class Form:
    """A way to send a photo, and what was measured of it for each photo."""

    write: Write
    nbytes: list[int] = field(default_factory=list)
    encode_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)
    agrees: list[bool] = field(default_factory=list)
    divergence: list[float] = field(default_factory=list)


def run(quick: bool = False) -> list[Row]:
    """A row for each form. Times are medians for one photo on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        loaded = efficientnet_lite0()
        files = _files()[: 4 if quick else None]
        ladder, variants = _ladder(), _variants()
        for number, file in enumerate(files):
            crop = image.crop(image.load(file), loaded.preprocessing)
            forms = [*ladder.values(), *(variants.values() if number < VARIANT_PHOTOS else ())]
            _measure(loaded, crop, forms)
            if number % 25 == 24:
                print(f"photos: {number + 1} of {len(files)}", file=sys.stderr, flush=True)
        return [_row(name, form) for name, form in {**ladder, **variants}.items()]
    finally:
        torch.set_num_threads(threads)


def _files() -> list[Path]:
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return [photo.path for photo in labelled_photos()]
    suffixes = (".jpg", ".jpeg", ".png", ".webp")
    return sorted(file for file in Path(folder).rglob("*") if file.suffix.lower() in suffixes)


def _ladder() -> dict[str, Form]:
    return {
        f"{codec}@{quality}": Form(partial(write_photo, codec=codec, quality=quality))
        for codec, qualities in LADDER.items()
        for quality in qualities
    }


def _variants() -> dict[str, Form]:
    """Other efforts, other chroma, and photos made smaller before they are sent."""
    forms: dict[str, Form] = {}
    for quality in (95, 85):
        forms[f"jpeg@{quality}, not optimised"] = _form("JPEG", quality=quality)
        forms[f"jpeg@{quality}, 4:4:4"] = _form(
            "JPEG", quality=quality, optimize=True, subsampling="4:4:4"
        )
    for method in (0, 4, 6):
        forms[f"webp@85, method {method}"] = _form("WEBP", quality=85, method=method)
    for quality in (95, 85):
        forms[f"avif@{quality}, 4:2:0"] = _form(
            "AVIF", quality=quality, speed=10, subsampling="4:2:0", max_threads=1
        )
    for speed in (8, 6):
        forms[f"avif@85, speed {speed}"] = _form(
            "AVIF", quality=85, speed=speed, subsampling="4:4:4", max_threads=1
        )
    for share in (0.875, 0.75):
        name = f"{share:.1%} of each side"
        forms[f"webp@90, {name}"] = _form("WEBP", share, quality=90, method=2)
        forms[f"avif@85, {name}"] = _form(
            "AVIF", share, quality=85, speed=10, subsampling="4:4:4", max_threads=1
        )
    return forms


def _form(file_format: str, share: float = 1.0, **options: Any) -> Form:
    def write(crop: PIL.Image.Image) -> bytes:
        if share < 1:
            size = round(crop.width * share), round(crop.height * share)
            crop = crop.resize(size, PIL.Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        crop.save(buffer, file_format, **options)
        return buffer.getvalue()

    return Form(write)


def _measure(loaded: LoadedNetwork, crop: PIL.Image.Image, forms: list[Form]) -> None:
    """Encode and decode one photo in each form, and classify all of them in one batch."""
    inputs: list[FloatArray] = [image.normalize(crop, loaded.preprocessing)]
    for form in forms:
        started = time.perf_counter()
        data = form.write(crop)
        encoded = time.perf_counter()
        decoded = image.load(data).convert(crop.mode)
        if decoded.size != crop.size:
            decoded = decoded.resize(crop.size, PIL.Image.Resampling.BICUBIC)
        form.decode_ms.append((time.perf_counter() - encoded) * 1e3)
        form.encode_ms.append((encoded - started) * 1e3)
        form.nbytes.append(len(data))
        inputs.append(image.normalize(decoded, loaded.preprocessing))
    with torch.inference_mode():
        logs = loaded.model(torch.from_numpy(np.stack(inputs))).log_softmax(dim=1)
    exact = logs[0]
    for form, log in zip(forms, logs[1:], strict=True):
        form.agrees.append(bool(log.argmax() == exact.argmax()))
        form.divergence.append(float((exact.exp() * (exact - log)).sum()))


def _row(name: str, form: Form) -> Row:
    photos = len(form.agrees)
    return row(
        f"{name}: {sum(form.agrees) / photos:.1%} of {photos} photos agree, "
        f"KL {statistics.fmean(form.divergence):.4f}, "
        f"encode {statistics.median(form.encode_ms):.1f} ms, "
        f"decode {statistics.median(form.decode_ms):.1f} ms",
        statistics.fmean(form.nbytes),
        "bytes",
        photos=photos,
        agreeing=sum(form.agrees),
        divergence=statistics.fmean(form.divergence),
        encode_ms=statistics.median(form.encode_ms),
        decode_ms=statistics.median(form.decode_ms),
    )
