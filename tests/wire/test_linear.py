"""The ``q`` family: error bounds, lossless parts, hostile payloads."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from toys.zstd_frames import frame_without_size

from isplit_plugin.errors import UnknownCodecError, WireError, WireSizeError
from isplit_plugin.schema import IMAGE_CODECS
from isplit_plugin.wire import (
    Ranges,
    Tensor,
    activation_layout,
    calibrate,
    codec_names,
    decode_activation,
    describe,
    encode_activation,
    entropy,
    quantize,
    unknown_codec,
)
from isplit_plugin.wire.linear import FAMILY, LinearCodec

NAMES = tuple(codec.name for codec in FAMILY)
LIMIT = quantize.RANGE_LIMIT
TINY = quantize.FLOAT32_TINY

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
MODERATE = st.one_of(st.just(0.0), st.floats(-8, 8, width=32))
SHAPES = hnp.array_shapes(min_dims=2, max_dims=4, max_side=5)
ACTIVATIONS = st.one_of(
    hnp.arrays(np.float32, SHAPES, elements=MODERATE),
    hnp.arrays(np.float32, SHAPES, elements=FINITE),
)


def round_trip(array: np.ndarray, codec: str, **options: Any) -> np.ndarray:
    return decode_activation(encode_activation(array, codec, **options), shape=array.shape[1:])


def rows_of(item: np.ndarray, codec: str, axis: int) -> np.ndarray:
    """(C, S) of one item, float64, by the definition."""
    if "c" not in codec.partition("+")[0]:
        return item.reshape(1, -1).astype(np.float64)
    return np.stack(
        [np.take(item, i, axis - 1).reshape(-1) for i in range(item.shape[axis - 1])]
    ).astype(np.float64)


def test_the_names() -> None:
    assert len(NAMES) == len(set(NAMES)) == 7 * 2 * 2
    assert set(NAMES) < set(codec_names())
    assert {"q8+zstd", "q2+zstd", "q4c+zstd", "q4+rle+zstd", "q4c+rle+zstd"} < set(NAMES)


@pytest.mark.parametrize(
    "name",
    [
        *("q4", "q4c", "q4+rle", "q1+zstd", "q9+zstd", "q4+zstd+rle", "q4+zstd+zstd", "q4C+zstd"),
        *("q", "q4+zstd ", "c4+zstd", "q4+lz4", "uint8+rle", "uint8+rle+zstd", "+zstd", ""),
    ],
)
def test_unknown_names(name: str) -> None:
    known = r"known: fp32.*, jpeg, webp, avif, file, q<2-8>\[c\]\[\+rle\]\+zstd"
    with pytest.raises(UnknownCodecError, match=known) as raised:
        encode_activation(np.ones((1, 2), np.float32), name)
    assert set(raised.value.details["known"]) == {*codec_names(), *IMAGE_CODECS}


def test_an_error_lists_the_codecs_of_both_sides() -> None:
    error = unknown_codec("q4", ["uint8", "fp16"], ["fp32", "q4+zstd"])
    assert str(error) == (
        "unknown codec 'q4'; known: uint8, fp16 (accepted by the tail); "
        "this side codes: fp32, q4+zstd"
    )
    assert error.details == {"known": ["uint8", "fp16"], "here": ["fp32", "q4+zstd"]}
    assert describe([]) == "none"
    assert describe([*NAMES, "uint8"]) == "uint8, q<2-8>[c][+rle]+zstd"
    assert describe([*NAMES[1:], "uint8"]) == ", ".join([*NAMES[1:], "uint8"])


@given(ACTIVATIONS, st.data())
@pytest.mark.parametrize("codec", NAMES)
@settings(max_examples=12)
def test_over_the_full_range_a_value_is_off_by_half_a_step_at_most(
    codec: str, array: np.ndarray, data: st.DataObject
) -> None:
    axis = data.draw(st.integers(1, array.ndim - 1))
    result = round_trip(array, codec, channel_axis=axis)
    levels = 2 ** int(codec[1]) - 1
    for item, decoded in zip(array.clip(-LIMIT, LIMIT), result, strict=True):
        exact = rows_of(item, codec, axis)
        error = np.abs(rows_of(decoded, codec, axis) - exact).max(axis=1)
        needed = (np.maximum(exact.max(axis=1), 0) - np.minimum(exact.min(axis=1), 0)) / levels
        # A channel's step is rounded up by a sixteenth of an octave at most, and is never more
        # than 16 octaves below the largest.
        step = np.maximum(needed * 2 ** (1 / 16), needed.max() * 2 ** (-255 / 16))
        assert (error <= np.maximum(step, TINY) * (0.5 + 1e-3)).all()
    assert (result[array == 0] == 0).all()


@given(hnp.arrays(np.float32, (3, 40), elements=MODERATE), st.integers(2, 8), st.floats(0.1, 1.5))
def test_within_the_range_half_a_step_beyond_it_the_nearest_end(
    array: np.ndarray, bits: int, share: float
) -> None:
    full = quantize.ranges_of(array)
    grid = quantize.grid_of(Ranges(full.low * share, full.high * share), bits)
    result = grid.restore(grid.quantize(array)).astype(np.float64)
    steps = grid.steps.astype(np.float64)[:, None]
    zeros = grid.zero_points.astype(np.float64)[:, None]
    low = -zeros * steps
    high = (2**bits - 1 - zeros) * steps
    inside = (array >= low - steps / 2) & (array <= high + steps / 2)
    assert (np.abs(result - array) <= steps * (0.5 + 1e-4))[inside].all()
    np.testing.assert_allclose(result[~inside], np.clip(array, low, high)[~inside], rtol=1e-5)


def quantised(array: np.ndarray, codec: str, ranges: Ranges | None = None) -> np.ndarray:
    """The activation through the quantiser alone, item by item."""
    bits = int(codec[1])
    axis = 1 if "c" in codec.partition("+")[0] else 0
    result = np.empty_like(array)
    for item, place in zip(array, result, strict=True):
        rows = item.reshape(len(item) if axis else 1, -1)
        grid = quantize.grid_of(ranges or quantize.ranges_of(rows), bits)
        place[...] = grid.restore(grid.quantize(rows)).reshape(item.shape)
    return result


@given(ACTIVATIONS)
@settings(max_examples=30)
def test_run_lengths_grouping_and_zstd_lose_nothing(array: np.ndarray) -> None:
    for base in ("q2", "q3c", "q4", "q5c", "q8"):
        expected = quantised(array, base)
        for lossless in ("+zstd", "+rle+zstd"):
            np.testing.assert_array_equal(round_trip(array, base + lossless), expected)
    for base in ("q2", "q3c", "q6c", "q7"):
        ranges = calibrate([array], base + "+zstd")
        expected = quantised(array, base, ranges)
        for lossless in ("+zstd", "+rle+zstd"):
            result = round_trip(array, base + lossless, ranges=ranges)
            np.testing.assert_array_equal(result, expected)


@given(ACTIVATIONS)
@settings(max_examples=12)
def test_a_neighbour_in_the_batch_changes_nothing(array: np.ndarray) -> None:
    for codec in NAMES:
        together = round_trip(array, codec)
        alone = np.concatenate([round_trip(array[i : i + 1], codec) for i in range(len(array))])
        assert together.tobytes() == alone.tobytes()


@pytest.mark.parametrize("codec", NAMES)
@pytest.mark.parametrize("value", [0.0, -0.0, 5.0, -3.0, 1e-42, -1e-42, 6e4, 1e-38])
def test_a_constant_comes_back(codec: str, value: float) -> None:
    array = np.full((2, 3, 4), value, np.float32)
    np.testing.assert_allclose(round_trip(array, codec), array, rtol=1e-6, atol=TINY)


@pytest.mark.parametrize("codec", NAMES)
def test_the_whole_range_of_float32_stays_finite_and_in_order(codec: str) -> None:
    limit = np.finfo(np.float32).max
    array = np.array(
        [[[-limit, limit, 0.0, 1.0], [1e-45, -1e-45, 1e-38, 0.0], [limit, limit, limit, limit]]],
        np.float32,
    )
    result = round_trip(array, codec)
    assert np.isfinite(result).all()
    assert result[0, 0, 0] < -1e37
    assert result[0, 0, 1] > 1e37
    assert result[0, 0, 2] == 0
    assert (result[0, 2] > 1e37).all()


@pytest.mark.parametrize(
    "codec", ["q4+zstd", "q4c+zstd", "q3+rle+zstd", "q2c+zstd", "q5c+rle+zstd"]
)
def test_strides_and_precision_of_the_source_do_not_matter(codec: str) -> None:
    rng = np.random.default_rng(0)
    plain = np.maximum(rng.normal(size=(2, 6, 5, 4)), 0).astype(np.float32)
    expected = encode_activation(plain, codec).items[0]
    channels_last = np.ascontiguousarray(plain.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    same_values = [
        channels_last,
        plain.astype(">f4"),
        plain.astype(np.float64),
        np.asfortranarray(plain),
        plain[:, :, ::-1].copy()[:, :, ::-1],
    ]
    for array in same_values:
        assert encode_activation(array, codec).items[0] == expected


@pytest.mark.parametrize("codec", ["q4c+zstd", "q3c+rle+zstd", "q2c+zstd"])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_the_channel_axis_may_be_any(codec: str, axis: int) -> None:
    rng = np.random.default_rng(3)
    sizes = np.array([1, 10, 100, 1000]).reshape(1, 4, 1, 1)
    first = (rng.normal(size=(2, 4, 5, 6)) * sizes).astype(np.float32)
    moved = np.moveaxis(first, 1, axis)
    tensor = encode_activation(moved, codec, channel_axis=axis)
    assert tensor.nbytes == encode_activation(first, codec).nbytes
    decoded = decode_activation(tensor, shape=moved.shape[1:])
    np.testing.assert_array_equal(decoded, np.moveaxis(round_trip(first, codec), 1, axis))
    for wrong in (0, 4, -1):
        with pytest.raises(WireError, match="channel axis"):
            encode_activation(moved, codec, channel_axis=wrong)


def test_channels_of_different_size_need_their_own_steps() -> None:
    rng = np.random.default_rng(3)
    sizes = np.array([0.01, 1, 100]).reshape(1, 3, 1)
    array = (rng.normal(size=(1, 3, 50)) * sizes).astype(np.float32)
    per_tensor = round_trip(array, "q4+zstd")
    per_channel = round_trip(array, "q4c+zstd")
    assert (per_tensor[0, 0] == 0).all()
    error = np.square(per_channel - array).mean(axis=(0, 2)) / np.square(array).mean(axis=(0, 2))
    assert (error < 0.02).all()


def test_the_payload_by_hand() -> None:
    # The range is -1 to 6: a step of 1 with 3 bits.
    array = np.array([[0.0, 1.0, 2.0, 3.0, -1.0, 0.0, 6.0]], np.float32)
    tensor = encode_activation(array, "q3+zstd")
    assert tensor.datatype == "BYTES"
    assert activation_layout(tensor) == ("q3+zstd", (1, 7))
    assert dict(tensor.parameters) == {"isplit_codec": "q3+zstd", "isplit_shape": "1,7"}
    # Symbols are code - zero point modulo 8: 0 1 2 3 7 0 6, two in a byte.
    symbols = bytes([0 | 1 << 3, 2 | 3 << 3, 7 | 0 << 3, 6])
    content = bytes([1, 0]) + struct.pack("<f", 1.0) + bytes([1]) + symbols
    assert entropy.decompress(tensor.items[0], len(content)) == content
    np.testing.assert_array_equal(round_trip(array, "q3+zstd"), array)


def test_the_payload_per_channel_by_hand() -> None:
    # Each channel has one value, so its step is that value over 7 levels.
    array = np.array([[1.0, 6.0, 0.0]], np.float32)
    content = entropy.decompress(encode_activation(array, "q3c+zstd").items[0], 1000)
    sixteenths = int(np.floor(16 * np.log2(6)))
    no_zero_points = 0
    header = bytes([1, 1]) + struct.pack("<f", 6 / 7)
    assert content[:10] == header + bytes([sixteenths, 0, 255, no_zero_points])
    rle = entropy.decompress(encode_activation(array, "q3c+rle+zstd").items[0], 1000)
    assert rle[:10] == content[:10]


def test_ranges_of_a_calibration() -> None:
    rng = np.random.default_rng(6)
    sizes = np.array([1, 2, 4], np.float32).reshape(1, 3, 1)
    activations = rng.uniform(0, 2, size=(4, 3, 30)).astype(np.float32) * sizes
    ranges = calibrate([activations[:2], activations[2:]], "q8c+zstd")
    assert ranges.low.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(ranges.high, activations.max(axis=(0, 2)))
    beyond = round_trip(activations * 10, "q8c+zstd", ranges=ranges)
    np.testing.assert_allclose(beyond.max(axis=(0, 2)), ranges.high, rtol=0.05)
    whole = calibrate([activations], "q2+zstd")
    assert (whole.low.tolist(), whole.high.tolist()) == ([0], [activations.max()])


def test_values_far_beyond_a_calibrated_range_stay_finite() -> None:
    array = np.full((1, 3, 2), 3e38, np.float32)
    narrow = Ranges(np.zeros(3), np.full(3, 1e-30))
    assert np.isfinite(round_trip(array, "q8c+zstd", ranges=narrow)).all()


def test_calibrations_that_are_refused() -> None:
    activations = np.ones((1, 3, 2), np.float32)
    ranges = calibrate([activations], "q8c+zstd")
    with pytest.raises(WireError, match="expected ranges of 1 channels, got 3"):
        encode_activation(activations, "q8+zstd", ranges=ranges)
    with pytest.raises(WireError, match="expected finite ranges"):
        Ranges(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(WireError, match="at least one activation"):
        calibrate([], "q8+zstd")
    with pytest.raises(WireError, match="NaN or infinite"):
        calibrate([np.array([[np.nan]])], "q8+zstd")
    with pytest.raises(WireError, match="'uint8' uses no calibrated ranges"):
        calibrate([activations], "uint8")


def payload(codec: str, array: np.ndarray) -> tuple[bytearray, dict[str, Any]]:
    """What is inside a tensor, decompressed, and its parameters."""
    tensor = encode_activation(array, codec)
    return bytearray(entropy.decompress(tensor.items[0], 10**6)), dict(tensor.parameters)


def decode(
    data: bytes | bytearray, parameters: dict[str, Any], shape: tuple[int, ...] = (3, 4)
) -> np.ndarray:
    tensor = Tensor.of_bytes("activation", [entropy.compress(data)], parameters)
    return decode_activation(tensor, shape=shape)


RAMP = np.linspace(-1, 2, 24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("run_lengths", [False, True])
def test_hostile_payloads(per_channel: bool, run_lengths: bool) -> None:
    codec = LinearCodec(3, per_channel, run_lengths)
    good, parameters = payload(f"{codec.name}+zstd", RAMP)
    assert len(good) <= codec.max_size(RAMP.shape)

    def refused(data: bytes | bytearray, error: str) -> None:
        with pytest.raises(WireError, match=error):
            decode(data, parameters)

    for size in range(len(good)):
        refused(good[:size], "expected|channel axis|not a readable")
    refused(bytes(good) + b"\0", "1 bytes after the end|bytes, at most")
    refused(b"\2" + good[1:], "expected payload version 1, got 2")
    refused(good[:1] + bytes([not per_channel]) + good[2:], "channel axis")
    refused(good[:1] + b"\3" + good[2:], "channel axis 3")
    for step in (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-45, 3e38):
        refused(good[:2] + struct.pack("<f", step) + good[6:], "a step of")
    if per_channel:
        refused(good[:9] + b"\2" + good[10:], "expected a flag of 0 or 1, got 2")
        refused(good[:10] + b"\x08" + good[11:], "a zero point of 8, at most 7")
    else:
        refused(good[:6] + b"\x08" + good[7:], "a zero point of 8, at most 7")


@pytest.mark.parametrize("codec", ["q4+zstd", "q4c+zstd", "q4+rle+zstd", "q4c+rle+zstd"])
def test_another_codecs_payload_is_refused(codec: str) -> None:
    data, parameters = payload(codec, RAMP)
    names = {"q3+zstd", "q4+zstd", "q4c+zstd", "q4+rle+zstd", "q4c+rle+zstd", "uint8+zstd"}
    for other in names - {codec}:
        with pytest.raises(WireError):
            decode(bytes(data), {**parameters, "isplit_codec": other})


def test_a_bomb_is_refused_before_it_is_decompressed() -> None:
    parameters = dict(encode_activation(RAMP, "q4+rle+zstd").parameters)
    without_size = frame_without_size([bytes(2**20)] * 64)
    tracemalloc.start()
    try:
        for bomb, error in (
            (entropy.compress(bytes(2**26)), WireSizeError),
            (without_size, WireSizeError),
            (b"", WireError),
        ):
            tensor = Tensor.of_bytes("activation", [bomb], parameters)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with pytest.raises(error):
                decode_activation(tensor, shape=RAMP.shape[1:])
            assert tracemalloc.get_traced_memory()[1] - before < 2**18
    finally:
        tracemalloc.stop()


@given(st.sampled_from(NAMES), st.data())
@settings(max_examples=300)
def test_hostile_bytes_raise_wire_errors_only(codec: str, data: st.DataObject) -> None:
    raw, parameters = payload(codec, np.maximum(RAMP, 0) if data.draw(st.booleans()) else RAMP)
    if data.draw(st.booleans()):
        raw = bytearray(data.draw(st.binary(max_size=80)))
    for _ in range(data.draw(st.integers(0, 6))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        array = decode(bytes(raw), parameters)
    except WireError:
        return
    assert array.shape == RAMP.shape
    assert np.isfinite(array).all()
