"""The ablation compares what it says: grids, channels and bytes at equal divergence, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.ablation import ChannelFamily, PlainGrid, compared, parts
from benchmarks.transform import Measured


def _measured(nbytes: float, divergence: float) -> Measured:
    photos = np.ones(4)
    return Measured("", nbytes * photos, divergence * photos, photos, 0.0, 0.0)


def test_a_plain_grid_changes_nothing_and_has_one_band() -> None:
    grid = PlainGrid(0, 2, 3)
    values = np.arange(12.0).reshape(2, 6)
    assert grid.transform(values) is values
    assert grid.inverse(values) is values
    assert grid.bands.tolist() == [0] * 6
    assert grid.band_count == 1


def test_channels_keep_their_identity_and_come_by_what_they_matter() -> None:
    family = ChannelFamily(
        torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)),
        torch.diag(torch.tensor([8.0, 1.0, 0.1], dtype=torch.float64)),
    )
    basis = family.basis(1.0)
    weights = np.array([8.0, 1.0, 0.1]) * 3 / 9.1
    np.testing.assert_allclose(basis.variances, sorted(weights * [1, 4, 9], reverse=True))
    np.testing.assert_allclose(basis.decoder @ basis.encoder, np.eye(3), atol=1e-12)
    assert np.count_nonzero(basis.encoder) == 3
    np.testing.assert_allclose(family.basis(0.0).variances, [9, 4, 1])


def test_bytes_are_compared_at_equal_divergence() -> None:
    whole = [_measured(1_000, 0.2), _measured(4_000, 0.002)]
    worse = [_measured(2_000, 0.2), _measured(8_000, 0.002)]
    first, second = compared("x", worse, whole)
    assert first["name"] == "x: bytes at 0.02 nats"
    assert first["value"] == pytest.approx(4_000)
    assert [first["ratio"], first["low"], first["high"]] == pytest.approx([2, 2, 2])
    assert second["ratio"] == pytest.approx(2)
    assert not list(compared("x", worse[1:], whole))


def test_every_part_is_left_out_once() -> None:
    labels = [part.label for part in parts(0.5)]
    assert labels[0] == "all of it, exponent 0.5"
    assert len(labels) == len(set(labels)) == 9
