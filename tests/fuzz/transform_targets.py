"""Targets: the codec ``dct``, refining requests, the files of transforms, correctors and int8 heads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import safetensors.numpy
from toys.client import make_manifest
from toys.transforms import toy_transform

from isplit_plugin.errors import ArtifactError, NetworkMismatchError, UnknownCodecError, WireError
from isplit_plugin.hashed_arrays import Arrays, digest, unpack_arrays
from isplit_plugin.network import Corrector, Int8Heads, pack_correctors, unpack_correctors
from isplit_plugin.network.correctors.corrector_file import KEY as CORRECTORS_KEY
from isplit_plugin.network.int8.heads_file import KEY as HEADS_KEY
from isplit_plugin.network.int8.heads_file import pack_int8_heads, unpack_int8_heads
from isplit_plugin.schema import Cut, Refinement
from isplit_plugin.wire import EncodeOptions, Payload, load_json
from isplit_plugin.wire.dct import DCT
from isplit_plugin.wire.refined import FirstAnswer, read_refinement
from isplit_plugin.wire.transform import transform_file
from isplit_plugin.wire.transform.transform import QUALITIES
from isplit_plugin.wire.transform.transform_file import pack_transforms, unpack_transforms

from .target import Target

_TRANSFORMS: Final = (
    toy_transform(),
    toy_transform((10, 8), 2, split_point="tokens", components=3),
    toy_transform((3, 1, 1), 1, components=2),
)


def _dct(case: bytes) -> None:
    """A case is: which transform, which quality, the number of items, the payload."""
    if len(case) < 3:
        return
    transform = _TRANSFORMS[case[0] % len(_TRANSFORMS)]
    quality = QUALITIES[case[1] % len(QUALITIES)]
    shape = (1 + case[2] % 4, *transform.shape)
    payload = Payload(case[3:], quality=quality, transform=transform)
    activation = DCT.decode(payload, shape)
    assert activation.shape == shape
    assert np.isfinite(activation).all()


def _dct_seeds() -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for number, transform in enumerate(_TRANSFORMS):
        for quality in QUALITIES[::3]:
            for items in (1, 3):
                values = rng.normal(0, 3, (items, *transform.shape)).astype(np.float32)
                options = EncodeOptions(transform=transform, quality=quality)
                payload = DCT.encode(values, options)
                yield bytes((number, quality, items - 1)) + bytes(payload.data)


def _transforms(case: bytes) -> None:
    """A case is a flag and then, with an even flag, the JSON of a file, else the file."""
    if not case or case[0] % 2:
        unpack_transforms(case[1:])
        return
    description = load_json(case[1:])
    if isinstance(description, dict):
        unpack_transforms(_file(description))


def _file(description: dict[str, Any]) -> bytes:
    """The file with this JSON, the arrays of the toy transforms, and the right SHA-256."""
    whole = pack_transforms(_TRANSFORMS)
    arrays = safetensors.numpy.load(whole)
    sha256 = _digest(description, arrays)
    signed = json.dumps({"content": description, "sha256": sha256})
    return bytes(safetensors.numpy.save(arrays, metadata={transform_file.KEY: signed}))


def _digest(description: dict[str, Any], arrays: Arrays) -> str:
    try:
        return digest(description, arrays)
    except ValueError:  # 1e999, which the reader refuses too
        return ""


def _transforms_seeds() -> Iterator[bytes]:
    yield b"\0" + json.dumps(transform_file.described(_TRANSFORMS)).encode()
    yield b"\1" + pack_transforms(_TRANSFORMS[2:])


# ------------------------------------------------------------------------ refining requests

_REFINING: Final = make_manifest(
    refinements=(Refinement("double", 3, (5, 7), 0.2, 0.2, 400, 0, 0.0075),)
)


def _refinement(case: bytes) -> None:
    """A case is the number of items, the quality of the tensor, and the JSON of the parameters."""
    if len(case) < 2:
        return
    parameters = load_json(case[2:])
    if not isinstance(parameters, dict):
        return
    items = 1 + case[0] % 4
    cut = Cut("double", "dct", case[1] % 8)
    refining, first = read_refinement(parameters, cut, _REFINING, items)
    assert refining.is_refining or refining == cut
    if first is not None:
        assert len(first.classes) == items
        assert all(0 <= number < items for number in first.audited)


def _refinement_seeds() -> Iterator[bytes]:
    yield bytes((0, 3)) + json.dumps({"isplit_fine": 7}).encode()
    for first in (FirstAnswer(900, (2,)), FirstAnswer(100, (0, 3), (1,))):
        parameters = {"isplit_coarse": 3, **first.parameters()}
        yield bytes((len(first.classes) - 1, 5)) + json.dumps(parameters).encode()


# ------------------------------------------------------------------------ files of correctors

_BEHIND: Final = {transform.split_point: transform for transform in _TRANSFORMS[1:]}


def _correctors(case: bytes) -> None:
    """A case is a flag and then, with an even flag, the JSON of a file, else the file."""
    if not case or case[0] % 2:
        unpack_correctors(case[1:], _BEHIND)
        return
    description = load_json(case[1:])
    if isinstance(description, dict):
        arrays = safetensors.numpy.load(_correctors_file())
        sha256 = _digest(description, arrays)
        signed = json.dumps({"content": description, "sha256": sha256})
        unpack_correctors(safetensors.numpy.save(arrays, {CORRECTORS_KEY: signed}), _BEHIND)


def _correctors_file() -> bytes:
    correctors = {name: Corrector(transform) for name, transform in _BEHIND.items()}
    return pack_correctors(correctors, _BEHIND)


def _correctors_seeds() -> Iterator[bytes]:
    whole = _correctors_file()
    content, _ = unpack_arrays(whole, CORRECTORS_KEY, newest=1, max_bytes=len(whole))
    yield b"\0" + json.dumps(content).encode()
    yield b"\1" + whole


# ------------------------------------------------------------------------- files of int8 heads

_HEADS: Final = Int8Heads("network", {"a": b"one model", "b.c": b""}, 3)


def _int8_heads(case: bytes) -> None:
    """A case is a flag and then, with an even flag, the JSON of a file, else the file."""
    if not case or case[0] % 2:
        unpack_int8_heads(case[1:], _HEADS.network_hash)
        return
    description = load_json(case[1:])
    if isinstance(description, dict):
        arrays = safetensors.numpy.load(pack_int8_heads(_HEADS))
        sha256 = _digest(description, arrays)
        signed = json.dumps({"content": description, "sha256": sha256})
        data = safetensors.numpy.save(arrays, {HEADS_KEY: signed})
        unpack_int8_heads(data, _HEADS.network_hash)


def _int8_heads_seeds() -> Iterator[bytes]:
    whole = pack_int8_heads(_HEADS)
    content, _ = unpack_arrays(whole, HEADS_KEY, newest=1, max_bytes=len(whole))
    yield b"\0" + json.dumps(content).encode()
    yield b"\1" + whole


TRANSFORM_TARGETS: Final = (
    Target("dct", "the payload of the codec dct", _dct, _dct_seeds, (WireError,), json_at=None),
    Target(
        "transforms",
        "a file of transforms",
        _transforms,
        _transforms_seeds,
        (ArtifactError, WireError),
        json_at=1,
        max_bytes=16_384,
        words=("network_hash", "split_point", "shape", "channel_axis", "spacing", "step"),
    ),
    Target(
        "refinement",
        "what refining requests say",
        _refinement,
        _refinement_seeds,
        (WireError, UnknownCodecError),
        json_at=2,
        words=("isplit_fine", "isplit_coarse", "isplit_first_bytes", "isplit_first_classes"),
    ),
    Target(
        "correctors",
        "a file of correctors",
        _correctors,
        _correctors_seeds,
        (ArtifactError, NetworkMismatchError, WireError),
        json_at=1,
        max_bytes=65_536,
        words=("network_hash", "split_point", "transform", "correctors", "tokens"),
    ),
    Target(
        "int8_heads",
        "a file of int8 heads",
        _int8_heads,
        _int8_heads_seeds,
        (ArtifactError, NetworkMismatchError, WireError),
        json_at=1,
        words=("network_hash", "split_points", "float_layers", "format"),
    ),
)
