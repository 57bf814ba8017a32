"""Features are the same on the device and in the tail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import DataError
from isplit_plugin.exits import GRID_FEATURES, POOLINGS, Pooling, feature_count, pool, usual_pooling


def test_channels_are_averaged_over_positions() -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 5))
    np.testing.assert_allclose(pool(values), values.mean(axis=(1, 2)), rtol=1e-6)
    tokens = np.random.default_rng(0).normal(size=(7, 3))
    np.testing.assert_allclose(pool(tokens, 2), tokens.mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(pool([1.0, 2.0], 1), [1, 2])


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 4), (2, 3), (1, 1)])
def test_a_grid_is_adaptive_pooling(size: tuple[int, int]) -> None:
    values = torch.randn(3, *size, generator=torch.Generator().manual_seed(1))
    cells = (min(2, size[0]), min(2, size[1]))
    expected = torch.nn.functional.adaptive_avg_pool2d(values, cells).flatten(1).T.flatten()
    mine = pool(values.numpy(), 1, "grid")
    np.testing.assert_allclose(mine, expected.numpy(), rtol=1e-4, atol=1e-6)
    assert len(mine) == feature_count(values.shape, 1, "grid")


@given(st.sampled_from(POOLINGS), st.integers(1, 3))
def test_memory_layout_does_not_matter(pooling: Pooling, channel_axis: int) -> None:
    values = np.random.default_rng(2).normal(size=(4, 5, 6)).astype(np.float32)
    for same in (np.asfortranarray(values), np.ascontiguousarray(values[::-1])[::-1]):
        np.testing.assert_array_equal(
            pool(same, channel_axis, pooling), pool(values, channel_axis, pooling)
        )


def test_a_grid_is_usual_while_it_is_small() -> None:
    assert usual_pooling((GRID_FEATURES // 4, 7, 7)) == "grid"
    assert usual_pooling((GRID_FEATURES // 4 + 1, 7, 7)) == "mean"
    assert usual_pooling((197, GRID_FEATURES // 2), 2) == "grid"
    assert feature_count((197, 96), 2, "grid") == 192


@pytest.mark.parametrize(
    ("values", "axis", "pooling"),
    [
        (np.zeros((2, 3)), 0, "mean"),
        (np.zeros((2, 3)), 3, "mean"),
        (np.zeros(()), 1, "mean"),
        (np.zeros((0, 3)), 1, "mean"),
        (np.zeros((3, 0)), 1, "grid"),
        (np.zeros((2, 3)), 1, "median"),
        (np.array([1.0, np.nan]), 1, "mean"),
        (np.array([1e300, 1.0]), 1, "grid"),
    ],
)
def test_what_has_no_features_is_refused(values: Any, axis: int, pooling: Any) -> None:
    with pytest.raises(DataError, match="expected"):
        pool(values, axis, pooling)
