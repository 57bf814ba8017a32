"""Activation codecs: what comes back, how large the error may be, and what is refused."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from toys.zstd_frames import frame_without_size

from isplit_plugin.errors import UnknownCodecError, WireError, WireSizeError
from isplit_plugin.wire import (
    CODECS,
    Codec,
    EncodeOptions,
    Payload,
    Tensor,
    WithZstd,
    activation_layout,
    calibrate,
    codec_names,
    codecs,
    decode_activation,
    encode_activation,
    encode_images,
    entropy,
    is_codec,
    register,
)

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ACTIVATIONS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=FINITE
)


def round_trip(array: np.ndarray, codec: str) -> np.ndarray:
    return decode_activation(encode_activation(array, codec), shape=array.shape[1:])


def scales(array: np.ndarray) -> np.ndarray:
    """The range of every item, zero included, over 255 steps."""
    rows = array.reshape(len(array), -1).astype(np.float64)
    return np.asarray((np.maximum(rows.max(1), 0) - np.minimum(rows.min(1), 0)) / 255)


@given(ACTIVATIONS)
@pytest.mark.parametrize("codec", ["fp32", "fp32+zstd"])
def test_fp32_comes_back_bit_for_bit(codec: str, array: np.ndarray) -> None:
    assert round_trip(array, codec).tobytes() == array.tobytes()


@given(ACTIVATIONS)
@pytest.mark.parametrize("codec", ["fp16", "fp16+zstd"])
def test_fp16_is_numpys_half_clipped_to_its_range(codec: str, array: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        expected = array.astype(np.float16)
    expected[np.isinf(expected)] = np.copysign(np.float16(65504), array[np.isinf(expected)])
    np.testing.assert_array_equal(round_trip(array, codec), expected.astype(np.float32))


@given(ACTIVATIONS)
@pytest.mark.parametrize("codec", ["uint8", "uint8+zstd"])
def test_uint8_is_off_by_half_a_step_at_most_and_keeps_zeros(codec: str, array: np.ndarray) -> None:
    result = round_trip(array, codec)
    limit = float(np.finfo(np.float32).max) * 127 / 256
    array = array.clip(-limit, limit)
    # Scale and arithmetic are float32; the scale is at least the smallest normal number.
    step = np.maximum(scales(array), np.finfo(np.float32).tiny)
    error = np.abs(result.astype(np.float64) - array).reshape(len(array), -1).max(axis=1)
    assert (error <= step * (0.5 + 1e-4)).all()
    assert (result[array == 0] == 0).all()


@given(ACTIVATIONS)
@pytest.mark.parametrize("codec", CODECS)
def test_a_neighbour_in_the_batch_changes_nothing(codec: str, array: np.ndarray) -> None:
    together = round_trip(array, codec)
    alone = np.concatenate([round_trip(array[i : i + 1], codec) for i in range(len(array))])
    assert together.tobytes() == alone.tobytes()


def test_uint8_by_hand() -> None:
    tensor = encode_activation(np.array([[-1.0, 0.0, 1.0, 4.1]], np.float32), "uint8")
    assert tensor.datatype == "UINT8"
    assert dict(tensor.parameters) == {"scale": 0.02, "zero_point": 50}  # 5.1 / 255; 1 / 0.02
    assert tensor.array.tolist() == [[0, 50, 100, 255]]
    several = encode_activation(np.array([[-1.0, 4.1], [0.0, 2.55]], np.float32), "uint8")
    assert dict(several.parameters) == {"scale": "0.02,0.01", "zero_point": "50,0"}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", [0.0, -0.0, 5.0, -3.0, 1e-42, 6e4])
def test_a_constant_activation_comes_back(codec: str, value: float) -> None:
    array = np.full((2, 3), value, np.float32)
    tolerance = max(abs(value) * 1e-3, 1e-7 if codec.startswith("fp16") else 1.2e-38)
    np.testing.assert_allclose(round_trip(array, codec), array, atol=tolerance, rtol=0)


@pytest.mark.parametrize("codec", CODECS)
def test_the_whole_range_of_float32_survives(codec: str) -> None:
    limit = np.finfo(np.float32).max
    result = round_trip(np.array([[-limit, limit, 1.0]], np.float32), codec)
    assert np.isfinite(result).all()
    assert result[0, 0] < -6e4
    assert result[0, 1] > 6e4


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_on_both_sides(codec: str, value: float) -> None:
    array = np.ones((1, 4), np.float32)
    array[0, 2] = value
    with pytest.raises(WireError, match="NaN or infinite"):
        encode_activation(array, codec)
    for hostile in (
        Tensor.of("activation", array),
        Tensor.of("activation", array.astype(np.float16)),
    ):
        with pytest.raises(WireError, match="NaN or infinite"):
            decode_activation(hostile, shape=(4,))


@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (2, 0)])
def test_an_activation_without_batch_or_values_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(WireError, match="expected an activation"):
        encode_activation(np.zeros(shape, np.float32), "fp32")


def test_strides_and_precision_of_the_source_do_not_matter() -> None:
    wide = np.arange(24, dtype=np.float64).reshape(2, 3, 4).transpose(0, 2, 1)
    np.testing.assert_array_equal(round_trip(wide, "fp32"), wide.astype(np.float32))


@pytest.mark.parametrize("codec", CODECS)
def test_a_decoded_activation_is_ready_for_an_engine(codec: str) -> None:
    result = round_trip(np.ones((2, 3, 4), np.float32), codec)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    assert result.flags.aligned
    assert result.flags.writeable


def test_unknown_names_are_listed() -> None:
    with pytest.raises(UnknownCodecError, match="unknown codec 'int3'; known: fp32, fp32\\+zstd"):
        encode_activation(np.ones((1, 2), np.float32), "int3")
    with pytest.raises(WireError, match="unknown codec"):
        decode_activation(
            Tensor.of_bytes("activation", [b""], {"isplit_codec": "int3"}), shape=(1,)
        )
    with pytest.raises(UnknownCodecError, match="known: jpeg, webp, avif, file"):
        encode_images([b"x"], "gif")


@pytest.mark.parametrize(
    ("scale", "zero_point", "error"),
    [
        (None, 0, "expected a number"),
        (True, 0, "expected a number"),
        (0, 0, "not within"),
        (-1.0, 0, "not within"),
        (1e38, 0, "not within"),
        (1e-45, 0, "not within"),
        ("0.1", 0, "1 entries for 2 items"),
        ("0.1,0.1,0.1", 0, "3 entries for 2 items"),
        ("0.1,nan", 0, "numbers with commas"),
        ("0.1,inf", 0, "numbers with commas"),
        ("0.1,1_0", 0, "numbers with commas"),
        ("0.1, 0.1", 0, "numbers with commas"),
        ("0.1," + "1" * 5000, 0, "numbers with commas"),
        ("0.1,1e999", 0, "not within"),
        (0.1, None, "expected a number"),
        (0.1, -1, "not within"),
        (0.1, 256, "not within"),
        (0.1, 0.5, "integer"),
        (0.1, 2**63, "not within"),
    ],
)
def test_hostile_quantization_parameters(scale: Any, zero_point: Any, error: str) -> None:
    named = {"scale": scale, "zero_point": zero_point}
    tensor = Tensor.of(
        "activation", np.zeros((2, 3), np.uint8), {k: v for k, v in named.items() if v is not None}
    )
    with pytest.raises(WireError, match=error):
        decode_activation(tensor, shape=(3,))


def test_one_plain_scale_belongs_to_every_item() -> None:
    tensor = Tensor.of("activation", np.full((2, 1), 3, np.uint8), {"scale": 0.5, "zero_point": 1})
    assert decode_activation(tensor, shape=(1,)).tolist() == [[1.0], [1.0]]


def test_shape_and_batch_are_checked() -> None:
    tensor = encode_activation(np.ones((3, 2, 2), np.float32), "fp32")
    for wrong in [(2,), (2, 3), (4,), (2, 2, 1)]:
        with pytest.raises(WireError, match="expected shape"):
            decode_activation(tensor, shape=wrong)
    with pytest.raises(WireSizeError, match="a batch of 3, at most 2"):
        decode_activation(tensor, shape=(2, 2), max_batch=2)


CODED = {"isplit_codec": "fp32+zstd", "isplit_shape": "1,1000"}
FRAME = entropy.compress(bytes(4000))


@pytest.mark.parametrize(
    ("data", "changes", "error"),
    [
        (b"", {}, "not a readable zstd frame"),
        (FRAME + b"!", {}, "1 bytes after the zstd frame"),
        (entropy.compress(bytes(3999)), {}, "expected 4000 bytes of codes, got 3999"),
        (entropy.compress(bytes(4001)), {}, "a zstd frame of 4001 bytes, at most 4000"),
        (FRAME, {"isplit_shape": "1,999"}, "expected shape"),
        (FRAME, {"isplit_shape": "1000"}, "expected shape"),
        (FRAME, {"isplit_shape": "-1,1000"}, "positive"),
        (FRAME, {"isplit_shape": "1," + "9" * 19}, "positive"),
        (FRAME, {"isplit_shape": "1," + "9" * 90}, "expected a shape like"),
        (FRAME, {"isplit_shape": "1,1000,"}, "expected a shape like"),
        (FRAME, {"isplit_shape": 1000}, "expected a string"),
        (FRAME, {"isplit_codec": 7}, "expected a string"),
        (FRAME, {"isplit_codec": "jpeg"}, "unknown codec"),
        (FRAME, {"isplit_codec": "fp32"}, "expected 4000 bytes of codes"),
    ],
)
def test_hostile_coded_activations(data: bytes, changes: dict[str, Any], error: str) -> None:
    tensor = Tensor.of_bytes("activation", [data], {**CODED, **changes})
    with pytest.raises(WireError, match=error):
        decode_activation(tensor, shape=(1000,))


def test_a_bomb_is_refused_before_it_is_decompressed() -> None:
    without_size = frame_without_size([bytes(2**20)] * 64)
    assert len(without_size) < 2**14
    tracemalloc.start()
    try:
        for bomb in (without_size, entropy.compress(bytes(2**26))):
            tensor = Tensor.of_bytes("activation", [bomb], CODED)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with pytest.raises(WireSizeError, match="4000"):
                decode_activation(tensor, shape=(1000,))
            assert tracemalloc.get_traced_memory()[1] - before < 2**20
    finally:
        tracemalloc.stop()


@given(st.sampled_from(CODECS), st.data())
def test_hostile_parameters_and_bytes_raise_wire_errors_only(
    codec: str, data: st.DataObject
) -> None:
    sent = encode_activation(np.linspace(-1, 2, 12, dtype=np.float32).reshape(2, 2, 3), codec)
    parameters = dict(sent.parameters)
    keys = st.sampled_from(["scale", "zero_point", "isplit_codec", "isplit_shape"])
    values = st.text() | st.integers() | st.floats() | st.booleans() | st.just("2,2,3")
    for key in data.draw(st.sets(keys)):
        parameters[key] = data.draw(values)
    content = sent.data
    if sent.datatype == "BYTES" and data.draw(st.booleans()):
        content = (data.draw(st.binary(max_size=60)),)
    hostile = Tensor(sent.name, sent.datatype, sent.shape, content, parameters)
    try:
        array = decode_activation(hostile, shape=(2, 3), max_batch=4)
    except WireError:
        return
    assert array.shape[1:] == (2, 3)
    assert np.isfinite(array).all()


class Sign(Codec):
    """One bit for each value: an example of a codec that is not built in."""

    name = "sign"

    def encode(self, activation: np.ndarray, options: EncodeOptions) -> Payload:
        return Payload(np.packbits(activation > 0).tobytes())

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> np.ndarray:
        count = math.prod(shape)
        if len(payload.data) != -(-count // 8):
            raise WireError(f"expected {-(-count // 8)} bytes, got {len(payload.data)}")
        bits = np.unpackbits(np.frombuffer(payload.data, np.uint8), count=count)
        return bits.reshape(shape).astype(np.float32) * 2 - 1

    def max_size(self, shape: tuple[int, ...]) -> int:
        return -(-math.prod(shape) // 8)


class WrongShape(Sign):
    """A codec with a defect."""

    name = "wrong-shape"

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros((*shape, 1), np.float32)


@pytest.fixture
def own_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(codecs._CODECS, "_objects", dict(codecs._CODECS._objects))


@pytest.mark.usefixtures("own_codecs")
def test_a_codec_is_one_class() -> None:
    names = codec_names()
    register(Sign())
    register(WithZstd(Sign()))
    assert codec_names() == (*names, "sign", "sign+zstd")
    array = np.array([[[1, -2, 3], [4, -5, -6]], [[-1, -1, 1], [1, 1, 1]]], np.float32)
    for codec in ("sign", "sign+zstd"):
        tensor = encode_activation(array, codec)
        assert activation_layout(tensor) == (codec, (2, 2, 3))
        np.testing.assert_array_equal(decode_activation(tensor, shape=(2, 3)), np.sign(array))
        with pytest.raises(WireError, match="codec 'sign' uses no calibrated ranges"):
            calibrate([array], codec)


@pytest.mark.usefixtures("own_codecs")
def test_a_codec_that_decodes_another_shape_is_refused() -> None:
    register(WrongShape())
    tensor = encode_activation(np.ones((1, 8), np.float32), "wrong-shape")
    with pytest.raises(WireError, match=r"'wrong-shape' decoded the shape \[1, 8, 1\]"):
        decode_activation(tensor, shape=(8,))


@pytest.mark.usefixtures("own_codecs")
@pytest.mark.parametrize(
    "name", ["uint8", "q4+zstd", "jpeg", "none", "", "a:b", "a@1", "a,b", "Sign", "+zstd", "a" * 65]
)
def test_names_that_cannot_be_registered(name: str) -> None:
    codec = Sign()
    codec.name = name
    with pytest.raises(ValueError, match=r"built in|expected 1 to 64"):
        register(codec)
    assert name not in codec_names() or not isinstance(codecs.find_coding(name)[0], Sign)


def test_known_names() -> None:
    assert all(is_codec(name) for name in codec_names())
    assert not is_codec("jpeg")
    assert set(CODECS) < set(codec_names())
