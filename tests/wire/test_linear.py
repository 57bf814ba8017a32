"""The q family: stated error bounds, lossless parts that are lossless, payloads that lie."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isplit_plugin.errors import UnknownCodecError, WireError, WireSizeError
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

NAMES = tuple(codec.name + suffix for codec in FAMILY for suffix in ("", "+zstd"))
FULL_RANGE = tuple(name for name in NAMES if "+" in name)
LIMIT = quantize.RANGE_LIMIT
TINY = quantize.FLOAT32_TINY

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
MODERATE = st.one_of(st.just(0.0), st.floats(-8, 8, width=32))
SHAPES = hnp.array_shapes(min_dims=2, max_dims=4, max_side=5)
ACTIVATIONS = st.one_of(
    hnp.arrays(np.float32, SHAPES, elements=MODERATE),
    hnp.arrays(np.float32, SHAPES, elements=FINITE),
)


def back(array: np.ndarray, codec: str, **more: object) -> np.ndarray:
    return decode_activation(encode_activation(array, codec, **more), shape=array.shape[1:])  # type: ignore[arg-type]


def rows_of(item: np.ndarray, codec: str, axis: int) -> np.ndarray:
    """(C, S) of one item, float64, by the definition."""
    if "c" not in codec.partition("+")[0]:
        return item.reshape(1, -1).astype(np.float64)
    return np.stack(
        [np.take(item, i, axis - 1).reshape(-1) for i in range(item.shape[axis - 1])]
    ).astype(np.float64)


def test_the_grammar_is_enumerated() -> None:
    assert len(NAMES) == len(set(NAMES)) == 7 * 2 * 2 * 2
    assert set(NAMES) < set(codec_names())
    assert {"q8", "q2", "q4c", "q4+rle", "q4c+rle+zstd", "q5+zstd"} < set(NAMES)
    for wrong in (
        "q1",
        "q9",
        "q4+zstd+rle",
        "q4+zstd+zstd",
        "q4C",
        "q",
        "q4 ",
        "c4",
        "q4+lz4",
        "uint8+rle",
        "+zstd",
    ):
        with pytest.raises(
            UnknownCodecError, match=r"known: fp32.*, jpeg, file, q<2-8>\[c\]\[\+rle\]\[\+zstd\]"
        ) as raised:
            encode_activation(np.ones((1, 2), np.float32), wrong)
        assert set(raised.value.details["known"]) == {*codec_names(), "jpeg", "file"}


def test_an_error_names_the_lists_of_both_sides() -> None:
    error = unknown_codec("q4", ["uint8", "fp16"], ["fp32", "q4"])
    assert (
        "unknown codec 'q4'; known: uint8, fp16 (accepted by the tail); this side codes: fp32, q4"
        in str(error)
    )
    assert error.details == {"known": ["uint8", "fp16"], "here": ["fp32", "q4"]}
    assert describe([]) == "none"
    assert describe([*NAMES, "uint8"]) == "uint8, q<2-8>[c][+rle][+zstd]"


@given(ACTIVATIONS, st.data())
@pytest.mark.parametrize("codec", FULL_RANGE)
@settings(max_examples=12)
def test_over_the_full_range_a_value_is_off_by_half_a_step_at_most(
    codec: str, array: np.ndarray, data: st.DataObject
) -> None:
    axis = data.draw(st.integers(1, array.ndim - 1))
    result = back(array, codec, channel_axis=axis)
    levels = 2 ** int(codec[1]) - 1
    for item, decoded in zip(array.clip(-LIMIT, LIMIT), result, strict=True):
        exact, got = rows_of(item, codec, axis), rows_of(decoded, codec, axis)
        needed = (np.maximum(exact.max(axis=1), 0) - np.minimum(exact.min(axis=1), 0)) / levels
        # Exponents round a channel's step up, by a sixteenth of an octave, and end 16 octaves below the largest.
        step = np.maximum(np.maximum(needed * 2 ** (1 / 16), needed.max() * 2 ** (-255 / 16)), TINY)
        assert (np.abs(got - exact).max(axis=1) <= step * (0.5 + 1e-3)).all()
    assert (result[array == 0] == 0).all()


@given(hnp.arrays(np.float32, (3, 40), elements=MODERATE), st.integers(2, 8), st.floats(0.1, 1.5))
def test_within_the_clip_range_half_a_step_beyond_it_the_nearest_end(
    array: np.ndarray, bits: int, share: float
) -> None:
    full = quantize.ranges_of(array)
    grid = quantize.grid_of(Ranges(full.low * share, full.high * share), bits)
    result = grid.restore(grid.quantize(array)).astype(np.float64)
    steps, zeros = (
        grid.steps.astype(np.float64)[:, None],
        grid.zero_points.astype(np.float64)[:, None],
    )
    low, high = -zeros * steps, (2**bits - 1 - zeros) * steps
    inside = (array >= low - steps / 2) & (array <= high + steps / 2)
    assert (np.abs(result - array) <= steps * (0.5 + 1e-4))[inside].all()
    np.testing.assert_allclose(result[~inside], np.clip(array, low, high)[~inside], rtol=1e-5)


@given(ACTIVATIONS)
@settings(max_examples=30)
def test_run_lengths_packing_and_zstd_lose_nothing(array: np.ndarray) -> None:
    for base in ("q2", "q3c", "q4", "q5c", "q8"):
        plain = back(array, base + "+rle")
        for lossless in ("+zstd", "+rle+zstd"):
            assert back(array, base + lossless).tobytes() == plain.tobytes()
    ranges = {base: calibrate([array], base) for base in ("q2", "q3c", "q6c", "q7")}
    for base, given_ranges in ranges.items():
        packed = back(array, base, ranges=given_ranges)
        for lossless in ("+rle", "+zstd", "+rle+zstd"):
            assert back(array, base + lossless, ranges=given_ranges).tobytes() == packed.tobytes()


@given(ACTIVATIONS)
@settings(max_examples=12)
def test_a_neighbour_in_the_batch_changes_nothing(array: np.ndarray) -> None:
    for codec in NAMES:
        together = back(array, codec)
        alone = np.concatenate([back(array[i : i + 1], codec) for i in range(len(array))])
        assert together.tobytes() == alone.tobytes()


@pytest.mark.parametrize("codec", NAMES)
@pytest.mark.parametrize("value", [0.0, -0.0, 5.0, -3.0, 1e-42, -1e-42, 6e4, 1e-38])
def test_a_constant_comes_back(codec: str, value: float) -> None:
    array = np.full((2, 3, 4), value, np.float32)
    np.testing.assert_allclose(back(array, codec), array, rtol=1e-6, atol=TINY)


@pytest.mark.parametrize("codec", NAMES)
def test_the_whole_range_of_float32_stays_finite_and_in_order(codec: str) -> None:
    limit = np.finfo(np.float32).max
    array = np.array(
        [[[-limit, limit, 0.0, 1.0], [1e-45, -1e-45, 1e-38, 0.0], [limit, limit, limit, limit]]],
        np.float32,
    )
    result = back(array, codec)
    assert np.isfinite(result).all()
    assert result[0, 0, 0] < -1e37
    assert result[0, 0, 1] > 1e37
    assert result[0, 0, 2] == 0
    assert (result[0, 2] > 1e37).all()


@pytest.mark.parametrize("codec", ["q4", "q4c", "q3+rle", "q2c+zstd", "q5c+rle+zstd"])
def test_strides_and_precision_of_the_source_do_not_matter(codec: str) -> None:
    rng = np.random.default_rng(0)
    plain = np.maximum(rng.normal(size=(2, 6, 5, 4)), 0).astype(np.float32)
    expected = encode_activation(plain, codec).items[0]
    channels_last = np.ascontiguousarray(plain.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    big_endian = plain.astype(">f4")
    backwards = plain[:, :, ::-1].copy()[:, :, ::-1]
    for same in (
        channels_last,
        big_endian,
        plain.astype(np.float64),
        np.asfortranarray(plain),
        backwards,
    ):
        assert encode_activation(same, codec).items[0] == expected


@pytest.mark.parametrize("codec", ["q4c", "q3c+rle", "q2c+zstd"])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_the_channel_axis_may_be_any(codec: str, axis: int) -> None:
    rng = np.random.default_rng(3)
    first = (
        rng.normal(size=(2, 4, 5, 6)) * np.array([1, 10, 100, 1000]).reshape(1, 4, 1, 1)
    ).astype(np.float32)
    moved = np.moveaxis(first, 1, axis)
    tensor = encode_activation(moved, codec, channel_axis=axis)
    assert tensor.nbytes == encode_activation(first, codec).nbytes
    decoded = decode_activation(tensor, shape=moved.shape[1:])
    np.testing.assert_array_equal(decoded, np.moveaxis(back(first, codec), 1, axis))
    for wrong in (0, 4, -1):
        with pytest.raises(WireError, match="channel axis"):
            encode_activation(moved, codec, channel_axis=wrong)


def test_channels_of_different_size_need_their_own_steps() -> None:
    rng = np.random.default_rng(3)
    array = (rng.normal(size=(1, 3, 50)) * np.array([0.01, 1, 100]).reshape(1, 3, 1)).astype(
        np.float32
    )
    per_tensor, per_channel = back(array, "q4"), back(array, "q4c")
    assert (per_tensor[0, 0] == 0).all()
    error = np.square(per_channel - array).mean(axis=(0, 2)) / np.square(array).mean(axis=(0, 2))
    assert (error < 0.02).all()


def test_by_hand() -> None:
    array = np.array(
        [[0.0, 1.0, 2.0, 3.0, -1.0, 0.0, 6.0]], np.float32
    )  # range -1 to 6: a step of 1 with 3 bits
    tensor = encode_activation(array, "q3+zstd")
    assert tensor.datatype == "BYTES"
    assert activation_layout(tensor) == ("q3+zstd", (1, 7))
    # Symbols are code - zero point modulo 8: 0 1 2 3 7 0 6, two in a byte.
    content = (
        bytes([1, 0]) + struct.pack("<f", 1.0) + bytes([1, 0 | 1 << 3, 2 | 3 << 3, 7 | 0 << 3, 6])
    )
    assert entropy.decompress(tensor.items[0], len(content)) == content
    runs = encode_activation(array, "q3c+rle").items[0]
    steps = (
        bytes([1, 1])
        + struct.pack("<f", 6 / 7)
        + bytes([0, round(16 * np.log2(6)) - 1, 0, 0, 0, 0, 0])
    )
    assert (
        bytes(runs[:6]) == steps[:6]
    )  # each channel one value: 1, 2, 3 over 7 levels, the largest step 6 / 7
    np.testing.assert_array_equal(back(array, "q3+zstd"), array)


def test_clipping_lowers_the_squared_error_of_the_packed_form() -> None:
    rng = np.random.default_rng(5)
    array = rng.standard_t(3, size=(1, 8, 500)).astype(np.float32)  # heavy tails
    for base in ("q2", "q3", "q4", "q2c", "q3c"):
        clipped = np.square(back(array, base) - array).mean()
        assert clipped < np.square(back(array, base + "+zstd") - array).mean()


def test_ranges_of_a_calibration() -> None:
    rng = np.random.default_rng(6)
    seen = rng.uniform(0, 2, size=(4, 3, 30)).astype(np.float32) * np.array(
        [1, 2, 4], np.float32
    ).reshape(1, 3, 1)
    ranges = calibrate([seen[:2], seen[2:]], "q8c")
    assert ranges.low.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(ranges.high, seen.max(axis=(0, 2)))
    beyond = back(seen * 10, "q8c", ranges=ranges)
    np.testing.assert_allclose(beyond.max(axis=(0, 2)), ranges.high, rtol=0.05)
    assert calibrate([seen], "q2").high.shape == (1,)
    # Values far outside of a calibrated range overflow nothing.
    assert np.isfinite(
        back(
            np.full((1, 3, 2), 3e38, np.float32),
            "q8c",
            ranges=Ranges(np.zeros(3), np.full(3, 1e-30)),
        )
    ).all()
    with pytest.raises(WireError, match="ranges of 3 channels"):
        encode_activation(seen, "q8", ranges=ranges)
    with pytest.raises(WireError, match="not finite"):
        Ranges(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(WireError, match="at least one activation"):
        calibrate([], "q8")
    with pytest.raises(WireError, match="expected finite"):
        calibrate([np.array([[np.nan]])], "q8")
    with pytest.raises(UnknownCodecError, match="known: q8"):
        calibrate([seen], "uint8")


def payload(codec: str, array: np.ndarray) -> tuple[bytearray, dict[str, object]]:
    """What is inside a tensor, decompressed, and its parameters."""
    tensor = encode_activation(array, codec)
    data = bytes(tensor.items[0])
    if codec.endswith("+zstd"):
        data = entropy.decompress(data, entropy.content_size(data, 10**6))
    return bytearray(data), dict(tensor.parameters)


def decode(
    codec: str, data: bytes, parameters: dict[str, object], shape: tuple[int, ...]
) -> np.ndarray:
    wrapped = entropy.compress(data) if codec.endswith("+zstd") else data
    tensor = Tensor.of_bytes("activation", [wrapped], parameters)  # type: ignore[arg-type]
    return decode_activation(tensor, shape=shape)


RAMP = np.linspace(-1, 2, 24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize(
    "codec", ["q3", "q3c", "q3+rle", "q3c+rle", "q3+zstd", "q3c+zstd", "q3c+rle+zstd"]
)
def test_hostile_payloads(codec: str) -> None:
    good, parameters = payload(codec, RAMP)
    assert len(good) <= LinearCodec(3, "c" in codec[:3], "rle" in codec).max_size(RAMP.shape)

    def refused(data: bytes, says: str) -> None:
        with pytest.raises(WireError, match=says):
            decode(codec, data, parameters, RAMP.shape[1:])

    for size in range(len(good)):
        refused(good[:size], "expected|left|needs|head takes|channel axis")
    refused(bytes(good) + b"\0", "1 bytes behind|bytes, at most")
    refused(b"\2" + good[1:], "payload version 2")
    refused(good[:1] + bytes([0 if "c" in codec[:3] else 1]) + good[2:], "channel axis")
    refused(good[:1] + b"\3" + good[2:], "channel axis 3")
    for step in (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-45, 3e38):
        refused(good[:2] + struct.pack("<f", step) + good[6:], "a step of")
    if "c" in codec[:3]:
        refused(good[:9] + b"\2" + good[10:], "a flag of 2")
        refused(good[:10] + b"\x08" + good[11:], "a zero point of 8, at most 7")
    else:
        refused(good[:6] + b"\x08" + good[7:], "a zero point of 8, at most 7")


def test_another_codecs_payload_is_refused() -> None:
    for codec in ("q4", "q4c", "q4+rle", "q4c+rle"):
        data, parameters = payload(codec, RAMP)
        for other in {"q3", "q4", "q4c", "q4+rle", "q4c+rle", "q4+zstd"} - {codec}:
            tensor = Tensor.of_bytes(
                "activation", [bytes(data)], {**parameters, "isplit_codec": other}
            )
            with pytest.raises(WireError):
                decode_activation(tensor, shape=RAMP.shape[1:])


def test_a_bomb_is_refused_without_unfolding_it() -> None:
    parameters = dict(encode_activation(RAMP, "q4+rle+zstd").parameters)
    packer = entropy.zstd.ZstdCompressor()
    unsized = b"".join([packer.compress(bytes(2**20)) for _ in range(64)] + [packer.flush()])
    tracemalloc.start()
    try:
        for bomb, error in (
            (entropy.compress(bytes(2**26)), WireSizeError),
            (unsized, WireError),
            (b"", WireError),
        ):
            tracemalloc.reset_peak()
            start = tracemalloc.get_traced_memory()[0]
            with pytest.raises(error):
                decode_activation(
                    Tensor.of_bytes("activation", [bomb], parameters), shape=RAMP.shape[1:]
                )
            assert tracemalloc.get_traced_memory()[1] - start < 2**18
    finally:
        tracemalloc.stop()


@given(st.sampled_from(NAMES), st.data())
@settings(max_examples=300)
def test_whatever_goes_in_only_wire_errors_come_out(codec: str, data: st.DataObject) -> None:
    raw, parameters = payload(codec, np.maximum(RAMP, 0) if data.draw(st.booleans()) else RAMP)
    if data.draw(st.booleans()):
        raw = bytearray(data.draw(st.binary(max_size=80)))
    for _ in range(data.draw(st.integers(0, 6))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        array = decode(codec, bytes(raw), parameters, RAMP.shape[1:])
    except WireError:
        return
    assert array.shape == RAMP.shape
    assert np.isfinite(array).all()
