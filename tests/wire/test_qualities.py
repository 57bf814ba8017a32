"""Codecs with several qualities: registering, coding, and reading hostile qualities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.rated_codec import QUALITIES, Rated

from isplit_plugin.errors import UnknownCodecError, WireError
from isplit_plugin.schema import INPUT, Cut, Manifest
from isplit_plugin.wire import (
    TailRequest,
    Tensor,
    WithZstd,
    activation_layout,
    codecs,
    codings,
    decode_activation,
    decode_request,
    describe,
    encode_activation,
    encode_images,
    is_codec,
    register,
)

X = np.linspace(-7, 7, 24, dtype=np.float32).reshape(2, 3, 4)


@pytest.fixture(autouse=True, scope="module")
def rated() -> Iterator[None]:
    """The codecs `rated` and `rated+zstd`, gone after this module."""
    names = ("rated", "rated+zstd")
    register(Rated())
    register(WithZstd(Rated()))
    yield
    for name in names:
        del codecs._CODECS[name]


@pytest.mark.parametrize("codec", ["rated", "rated+zstd"])
@pytest.mark.parametrize("quality", QUALITIES)
def test_encoder_and_decoder_get_the_quality_of_the_coding(codec: str, quality: int) -> None:
    coding = f"{codec}@{quality}"
    tensor = encode_activation(X, coding)
    assert tensor.parameters["isplit_codec"] == coding
    assert activation_layout(tensor) == (coding, (2, 3, 4))
    step = 16 / (2**quality - 1)
    np.testing.assert_allclose(decode_activation(tensor, shape=(3, 4)), X, atol=step / 2 + 1e-5)


@pytest.mark.parametrize(
    "coding", ["rated", "rated@2", "rated@", "rated@03", "rated@3@3", "fp32@1"]
)
def test_a_quality_that_the_codec_does_not_have_is_refused(coding: str) -> None:
    with pytest.raises(UnknownCodecError, match=r"expected (rated@1,3,12|fp32), got"):
        encode_activation(X, coding)
    assert not is_codec(coding)
    tensor = Tensor.of_bytes("activation", [b""], {"isplit_codec": coding, "isplit_shape": "2,3,4"})
    with pytest.raises(WireError, match=r"expected (rated@1,3,12|fp32), got"):
        decode_activation(tensor, shape=(3, 4))


@given(st.text(max_size=12), st.binary(max_size=40))
def test_any_quality_and_any_bytes_are_read_or_refused(quality: str, data: bytes) -> None:
    parameters = {"isplit_codec": f"rated@{quality}", "isplit_shape": "2,3,4"}
    try:
        decoded = decode_activation(Tensor.of_bytes("activation", [data], parameters), shape=(3, 4))
    except WireError:
        return
    assert decoded.shape == (2, 3, 4)


def test_a_codec_stands_for_all_its_codings() -> None:
    every = ("rated@1", "rated@3", "rated@12")
    assert codings(["rated"]) == every
    assert codings(["uint8", "rated@3", "rated"]) == ("uint8", "rated@3", "rated@1", "rated@12")
    assert set(every) < set(codings())
    assert "rated" not in codings()
    assert describe([*every, "uint8"]) == "rated@1,3,12, uint8"
    with pytest.raises(UnknownCodecError):
        codings(["rated@2"])


@pytest.mark.parametrize("qualities", [(3, 1), (1, 1), (-1,), (100,), (1.0,), ("1",)])
def test_qualities_that_cannot_be_registered(qualities: tuple[object, ...]) -> None:
    codec = Rated()
    codec.qualities = qualities  # type: ignore[assignment]
    with pytest.raises(ValueError, match="ascending qualities from 0 to 99"):
        register(codec)


def test_the_tail_accepts_the_qualities_of_its_manifest_alone(manifest: Manifest) -> None:
    x = np.zeros((1, *manifest.split_point("conv").shape), np.float32)
    accepting = replace(manifest, codecs=("fp32", "rated@3"))

    def read(coding: str) -> Cut:
        request = TailRequest(
            cut=Cut.of("conv", coding),
            tensor=encode_activation(x, coding),
            network_hash=manifest.network_hash,
        )
        return decode_request(*request.encode(), "application/octet-stream", accepting).cut

    assert read("rated@3") == Cut("conv", "rated", 3)
    with pytest.raises(UnknownCodecError, match="known: fp32, rated@3 "):
        read("rated@12")


def test_photos_are_accepted_in_the_qualities_of_the_manifest(manifest: Manifest) -> None:
    accepting = replace(manifest, photos=("jpeg@90", "webp@75"))

    def read(coding: str) -> Cut:
        request = TailRequest(cut=Cut.of(INPUT, coding), tensor=encode_images([b"a photo"], coding))
        return decode_request(*request.encode(), "application/octet-stream", accepting).cut

    # A client that states no quality is served: its photo says all that the tail needs.
    for coding in ("jpeg@90", "webp@75", "file", "jpeg", "avif"):
        assert read(coding) == Cut.of(INPUT, coding)
    for coding in ("jpeg@89", "avif@75", "file@1"):
        with pytest.raises(UnknownCodecError, match="jpeg@90, webp@75, file"):
            read(coding)


@given(quality=st.text(max_size=20))
def test_any_quality_of_a_photo_is_read_or_refused(manifest: Manifest, quality: str) -> None:
    tensor = Tensor.of_bytes("input", [b"x"], {"isplit_codec": f"jpeg@{quality}"})
    request = TailRequest(cut=Cut(INPUT, "jpeg"), tensor=tensor)
    with pytest.raises((UnknownCodecError, WireError)):
        decode_request(*request.encode(), "application/octet-stream", replace(manifest, photos=()))
