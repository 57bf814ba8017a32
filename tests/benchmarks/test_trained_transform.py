"""The transform in training does what the codec does, and comparisons are at equal divergence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.trained_code import TrainedCode, rounded, step_of
from benchmarks.trained_transform import compared, gained
from benchmarks.transform import Measured
from isplit_plugin.network.transforms.tables import TABLES, fitted_tables
from isplit_plugin.wire import ALPHABET, Transform


@pytest.fixture
def transform() -> Transform:
    """Of three channels and 4 x 4 positions, with coefficients of about five steps."""
    rng = np.random.default_rng(0)
    encoder = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return Transform(
        network_hash="",
        split_point="cut",
        shape=(3, 4, 4),
        channel_axis=1,
        encoder=encoder.astype(np.float16),
        decoder=encoder.T.astype(np.float16),
        mean=np.zeros((1, 3), np.float32),
        widths=np.ones((3, 7), np.float16),
        classes=np.full((3, 7), 20, np.int8),
        tables=fitted_tables(np.zeros((TABLES, ALPHABET), np.int64)),
        centroids=np.zeros((TABLES, 3), np.float16),
        gains=np.ones(8, np.float32),
        step=0.5,
        spacing=1,
        low=-100.0,
        high=100.0,
    )


def test_at_first_it_decodes_what_the_codec_decodes(transform: Transform) -> None:
    values = 2 * torch.randn(40, 3, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        decoded, bits = TrainedCode(transform, 2, values)(values)
    plan = transform.plan(2)
    codec = [plan.reconstruct(plan.quantise(item.reshape(3, 4, 4).numpy())) for item in values]
    # The codec's centroids are zero here, those of the Laplace distributions are not.
    difference = decoded.reshape(-1, 3, 4, 4).numpy() - np.stack(codec)
    step = step_of(transform, 2)
    assert np.sqrt((difference**2).mean()) < 0.2 * step
    assert (bits > 48).all()


def test_rounding_has_the_dead_zone_and_bits_of_a_probability() -> None:
    scaled = torch.tensor([0.0, 0.64, -0.66, 1.64, 5.0])
    values, _ = rounded(scaled, torch.ones(5))
    rest = 1 - 1 / math.expm1(1) - 0.35
    np.testing.assert_allclose(values, [0, 0, -1 - rest, 1 + rest, 5 + rest], rtol=1e-6)
    levels = torch.arange(-60.0, 61.0)
    _, bits = rounded(levels, torch.full_like(levels, 2.0))
    assert float((2**-bits).sum()) == pytest.approx(1, abs=1e-5)


def test_gradients_pass_where_a_dither_reaches_a_level() -> None:
    scaled = torch.tensor([0.1, 0.2, -3.0], requires_grad=True)
    values, bits = rounded(scaled, torch.ones(3))
    (through,) = torch.autograd.grad(values.sum(), scaled, retain_graph=True)
    np.testing.assert_allclose(through, [0, 1, 1])
    (cost,) = torch.autograd.grad(bits.sum(), scaled)
    assert cost[0] == 0
    assert cost[1] > 0
    assert cost[2] == pytest.approx(-1 / math.log(2))


def test_a_gain_is_of_the_decoder_alone(transform: Transform) -> None:
    other = gained(transform, 2.0)
    np.testing.assert_array_equal(other.decoder, 2 * transform.decoder)
    assert other.encoder is transform.encoder


def _measured(nbytes: float, divergence: float) -> Measured:
    photos = np.ones(4)
    return Measured("dct", nbytes * photos, divergence * photos, photos, 0.0, 0.0)


def test_one_coding_is_compared_at_its_own_divergence() -> None:
    whole = [_measured(1_000, 0.2), _measured(4_000, 0.002)]
    compared_row = compared("x", _measured(1_000, 0.02), whole)
    assert compared_row["ratio"] == pytest.approx(0.5)
    assert [compared_row["low"], compared_row["high"]] == pytest.approx([0.5, 0.5])
    assert math.isnan(compared("x", _measured(1_000, 0.5), whole)["ratio"])
