"""Targets: files that others made, and photos."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import PIL.Image
from toys import advice as toys
from toys.client import make_manifest, shared_bundle_files

from isplit_plugin import image
from isplit_plugin.client import HeadBundle
from isplit_plugin.errors import ArtifactError, BundleError, ImageError, ProfileError, WireError
from isplit_plugin.profile import Profile
from isplit_plugin.profile.profile_file import pack, parts_of
from isplit_plugin.schema import Manifest, Preprocessing
from isplit_plugin.wire import load_json

from .target import Target

MAX_PIXELS: Final = 1_000_000
"""The target `image` allows fewer pixels than the product, so that a case takes milliseconds."""

_PREPROCESSING: Final = Preprocessing(crop=(16, 16), resize=20)
_PHOTO: Final = np.zeros((9, 12, 3), np.uint8)
_MANIFEST_WORDS: Final = (
    *("model", "version", "network_hash", "input_shape", "preprocessing", "classes", "crop"),
    *("split_points", "deployed", "codecs", "default", "files", "created_with", "bottlenecks"),
    *("name", "aliases", "shape", "dtype", "nbytes", "macs", "channel_axis", "stride_order"),
    *(
        "is_block",
        "format",
        "heads/double.onnx",
        "manifest.json",
        "weights/1.onnx",
        "weights",
        "../",
        "mean",
        "std",
        "mode",
    ),
)


def _image(case: bytes) -> None:
    photo = image.load(case, max_pixels=MAX_PIXELS)
    assert photo.width * photo.height <= MAX_PIXELS
    assert image.preprocess(photo, _PREPROCESSING).shape == _PREPROCESSING.shape


def _image_seeds() -> Iterator[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    photo = PIL.Image.fromarray(pixels)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    transparent = photo.quantize(8)
    transparent.info["transparency"] = 3
    deep = PIL.Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
    yield _saved(photo, "JPEG", exif=exif)
    yield _saved(photo, "JPEG", progressive=True)
    yield _saved(photo.convert("CMYK"), "JPEG")
    yield _saved(photo, "PNG")
    yield _saved(transparent, "PNG")
    yield _saved(deep, "PNG")
    yield _saved(photo, "WEBP")
    yield _saved(photo, "WEBP", lossless=True)
    yield _saved(photo.quantize(16), "GIF", save_all=True, append_images=[photo.quantize(8)])
    for name in ("BMP", "TIFF", "PPM"):
        yield _saved(photo, name)
    yield _saved(photo, "TIFF", compression="tiff_lzw")
    yield _saved(photo.convert("1"), "TIFF", compression="group4")


def _saved(photo: PIL.Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, name, **options)
    return buffer.getvalue()


# ------------------------------------------------------------------------ bundles

# A case is a flag and then, with an even flag, the manifest of a bundle that the target zips, and
# otherwise the zip file itself.


def _bundle(case: bytes) -> None:
    content = _zipped(case[1:]) if case[:1] and case[0] % 2 == 0 else case[1:]
    path = _scratch_file()
    path.write_bytes(content)
    bundle = HeadBundle(path)
    try:
        image.preprocess(_PHOTO, bundle.manifest.preprocessing)
        for name in bundle.heads():
            head = bundle.read(name)
            if not bundle.manifest.weights.get(name):
                assert hashlib.sha256(head).hexdigest() == bundle.file_hash(name, "onnx")
    finally:
        bundle.close()


@cache
def _heads() -> dict[str, bytes]:
    return {name: data for name, data in shared_bundle_files().items() if name != "manifest.json"}


def _zipped(manifest: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("manifest.json", manifest)
        for name, data in _heads().items():
            bundle.writestr(name, data)
    return buffer.getvalue()


def _bundle_seeds() -> Iterator[bytes]:
    manifest = shared_bundle_files()["manifest.json"]
    yield b"\0" + manifest
    yield b"\1" + _zipped(manifest)
    small = make_manifest(files={"heads/double.onnx": hashlib.sha256(b"head").hexdigest()})
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as bundle:
            bundle.writestr("manifest.json", json.dumps(small.to_json()))
            bundle.writestr("heads/double.onnx", b"head")
        yield b"\1" + buffer.getvalue()


@cache
def _scratch_file() -> Path:
    """A file in memory, for readers that want a path. It has no name that outlives the process."""
    return Path(f"/proc/self/fd/{os.memfd_create('case')}")


def _manifest(case: bytes) -> None:
    raw = load_json(case)
    if isinstance(raw, dict):
        manifest = Manifest.from_json(raw)
        assert Manifest.from_json(manifest.to_json()) == manifest


# ------------------------------------------------------------------------ profiles

# A case is a flag and then, with an even flag, the description of a profile, whose file the target
# makes with the right SHA-256, and otherwise the file itself.


def _profile(case: bytes) -> None:
    if not case or case[0] % 2:
        Profile.from_bytes(case[1:])
        return
    description = load_json(case[1:])
    if isinstance(description, dict):
        _, arrays = parts_of(toys.profile())
        try:
            content = pack(description, arrays)
        except ValueError:  # 1e999, which no file has: writing it failed
            return
        Profile.from_bytes(content)


def _profile_seeds() -> Iterator[bytes]:
    description, _ = parts_of(toys.profile())
    yield b"\0" + json.dumps(description).encode()
    yield b"\1" + toys.profile().to_bytes()


FILE_TARGETS: Final = (
    Target("image", "a photo", _image, _image_seeds, (ImageError,), json_at=None),
    Target(
        "bundle",
        "a head bundle",
        _bundle,
        _bundle_seeds,
        (BundleError, ImageError, ArtifactError),
        json_at=1,
        memory_mb=1024,  # the largest input is 8192 x 8192 pixels of float32
        words=_MANIFEST_WORDS,
    ),
    Target(
        "manifest",
        "a manifest",
        _manifest,
        lambda: [json.dumps(make_manifest().to_json()).encode()],
        (ArtifactError, WireError),
        words=_MANIFEST_WORDS,
    ),
    Target(
        "profile",
        "a profile's file",
        _profile,
        _profile_seeds,
        (ProfileError, WireError),
        json_at=1,
    ),
)
