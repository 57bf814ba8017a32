"""The codec ``dct`` with a transform: what comes back, what it costs, and hostile bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.transforms import toy_transform

from isplit_plugin.errors import WireError
from isplit_plugin.wire.codec import EncodeOptions, Payload
from isplit_plugin.wire.dct import DCT
from isplit_plugin.wire.transform.grid import Grid, channels_back, channels_first
from isplit_plugin.wire.transform.transform import QUALITIES, ROUNDING, Transform


def encode_items(activation: np.ndarray, transform: Transform | None, quality: int | None) -> bytes:
    options = EncodeOptions(transform=transform, quality=quality)
    return bytes(DCT.encode(activation, options).data)


def decode_items(
    data: bytes, shape: tuple[int, ...], transform: Transform | None, quality: int
) -> np.ndarray:
    return DCT.decode(Payload(data, quality=quality, transform=transform), shape)


SHAPES = [
    ((6, 5, 4), 1),
    ((7, 7, 6), 3),  # channels last
    ((10, 8), 2),  # 3 x 3 tokens behind a class token
    ((9, 8), 2),  # 3 x 3 tokens
    ((8, 7), 1),  # a row of 7
    ((12,), 1),  # no spatial axes
    ((3, 1, 1), 1),
    ((4, 2, 3, 5), 1),  # three spatial axes
]


def activation(shape: tuple[int, ...], items: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 3, (items, *shape)).astype(np.float32)


def step_of(transform: Transform, quality: int) -> float:
    return transform.step * 2 ** (-quality * transform.spacing / 4)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_the_activation_comes_back_within_the_step(shape: tuple[int, ...], axis: int) -> None:
    """Each coefficient is off by at most 1 - ROUNDING steps, and encoder and transform are
    orthogonal: so that bounds the root mean square."""
    transform = toy_transform(shape, axis, step=0.2)
    exact = activation(shape)
    sizes = []
    for quality in QUALITIES:
        data = encode_items(exact, transform, quality)
        back = decode_items(data, exact.shape, transform, quality)
        error = float(np.sqrt(np.mean((back - exact) ** 2)))
        assert error <= (1 - ROUNDING) * step_of(transform, quality) + 0.01
        assert len(data) <= DCT.max_size(exact.shape)
        sizes.append(len(data))
    assert sizes[0] <= sizes[-1]
    if exact.size > 300:
        assert sizes == sorted(set(sizes))


def test_the_items_of_a_batch_are_coded_one_by_one() -> None:
    transform = toy_transform()
    batch = activation((6, 5, 4), items=4)
    together = decode_items(encode_items(batch, transform, 3), batch.shape, transform, 3)
    for number in range(4):
        item = batch[number : number + 1]
        alone = decode_items(encode_items(item, transform, 3), item.shape, transform, 3)
        assert np.array_equal(alone[0], together[number])


def test_components_without_bits_are_not_computed() -> None:
    transform = toy_transform((6, 5, 4))
    classes = transform.classes.copy()
    classes[4:] = -9  # coded from quality 5 on
    sparse = replace(transform, classes=classes)
    assert [sparse.components(quality) for quality in (0, 4, 5, 7)] == [4, 4, 6, 6]


def test_what_is_decoded_is_clipped_to_the_range() -> None:
    transform = toy_transform(low=0.0, step=2)
    exact = np.maximum(activation((6, 5, 4)), 0)
    back = decode_items(encode_items(exact, transform, 0), exact.shape, transform, 0)
    assert back.min() == 0


def test_huge_values_are_coded_as_the_largest() -> None:
    transform = toy_transform()
    huge = np.full((1, 6, 5, 4), 1e30, np.float32)
    back = decode_items(encode_items(huge, transform, 7), huge.shape, transform, 7)
    assert np.isfinite(back).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_values_that_cannot_be_coded_are_refused(value: float) -> None:
    transform = toy_transform()
    broken = activation((6, 5, 4), items=1)
    broken[0, :2] = value
    broken[0, 3] = -value
    try:
        data = encode_items(broken, transform, 3)
    except WireError:
        return
    assert np.isfinite(value)
    assert np.isfinite(decode_items(data, broken.shape, transform, 3)).all()


def test_misuse_is_refused() -> None:
    transform = toy_transform()
    exact = activation((6, 5, 4), items=1)
    with pytest.raises(WireError, match="needs a transform"):
        encode_items(exact, None, 3)
    for quality in (None, -1, 8, 99):
        with pytest.raises(WireError, match="quality from 0 to 7"):
            encode_items(exact, transform, quality)
    with pytest.raises(WireError, match="shape"):
        encode_items(exact[:, :5], transform, 3)
    data = encode_items(exact, transform, 3)
    with pytest.raises(WireError, match="version"):
        decode_items(b"\x02" + data[1:], exact.shape, transform, 3)
    with pytest.raises(WireError, match="after the end"):
        decode_items(data + b"\0", exact.shape, transform, 3)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(QUALITIES), st.integers(1, 3))
def test_any_bytes_decode_or_raise_a_wire_error(data: bytes, quality: int, items: int) -> None:
    transform = toy_transform()
    try:
        back = decode_items(b"\x01" + data, (items, 6, 5, 4), transform, quality)
    except WireError:
        return
    assert np.isfinite(back).all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_codes_decode_or_raise_a_wire_error(data: st.DataObject) -> None:
    transform = toy_transform()
    exact = activation((6, 5, 4), items=2)
    code = bytearray(encode_items(exact, transform, 4))
    for _ in range(data.draw(st.integers(1, 4))):
        code[data.draw(st.integers(0, len(code) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(code)))
    try:
        back = decode_items(bytes(code[:end]), exact.shape, transform, 4)
    except WireError:
        return
    assert np.isfinite(back).all()


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_the_grid_and_its_inverse(shape: tuple[int, ...], axis: int) -> None:
    grid = Grid.of(shape, axis)
    item = activation(shape, items=1)[0]
    values = channels_first(item, axis)
    assert values.shape == (shape[axis - 1], grid.positions)
    assert len(grid.bands) == grid.positions
    assert set(grid.bands) == set(range(grid.band_count))
    assert np.allclose(grid.inverse(grid.transform(values)), values, atol=1e-4)
    assert np.array_equal(channels_back(values, shape, axis), item)
    # A constant picture has only the first coefficient of the grid.
    flat = np.ones((1, grid.positions), np.float32)
    coefficients = grid.transform(flat)[0, grid.prefix :]
    assert np.allclose(coefficients[1:], 0, atol=1e-5)
