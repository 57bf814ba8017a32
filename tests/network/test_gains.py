"""Gains of transforms: chosen on photos that a transform has not seen, the careful one of equals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toys.transforms import toy_transform

from isplit_plugin.network.transforms.gains import (
    GAINS,
    MEASURED,
    Curves,
    Trial,
    chosen_gains,
    gain_curves,
)
from isplit_plugin.wire import QUALITIES


def trial(share: float, count: int = 3) -> Trial:
    """A transform whose decoder puts back a share of the signal; what is wrong is its square."""
    transform = toy_transform(step=0.01)
    weak = replace(transform, decoder=(share * transform.decoder).astype(np.float16))
    values = np.random.default_rng(1).normal(size=(count, 6, 20)).astype(np.float32)

    def divergence(decoded: np.ndarray) -> float:
        return float(((decoded - values) ** 2).mean())

    return Trial(weak, values, divergence)


@pytest.mark.parametrize(("share", "gain"), [(1.0, 1.0), (1 / 1.5, 1.5), (0.4, 2.5), (0.2, 2.5)])
def test_the_gain_puts_back_what_the_decoder_leaves_out(share: float, gain: float) -> None:
    gains = chosen_gains(gain_curves([trial(share)]))
    assert gains.dtype == np.float32
    np.testing.assert_allclose(gains, np.full(len(QUALITIES), gain), rtol=1e-6)


def test_trials_count_by_their_photos() -> None:
    """Three photos want 2.5, one wants 1: together 1.49, the least of 3 (1 - 0.4 g)² + (1 - g)²."""
    curves = gain_curves([trial(0.4, 3), trial(1.0, 1)])
    assert chosen_gains(curves)[1] == pytest.approx(1.4)
    assert chosen_gains(curves[1:])[1] == 1.0


def test_gains_end_where_two_in_a_row_are_worse() -> None:
    (curves,) = gain_curves([trial(1.0)])
    assert np.isfinite(curves[:, :3]).all()
    assert np.isinf(curves[:, 3:]).all()


def curves_of(*best: int, flat: float = 0.0) -> Curves:
    """Divergences that are least at these gains, by their places in the list."""
    places = np.arange(len(GAINS))
    return np.array([1 + (flat or 1.0) * np.abs(places - place) for place in best])


def test_qualities_between_those_that_were_tried_lie_between() -> None:
    gains = chosen_gains([curves_of(7, 5, 2, 0)])
    tried = [GAINS[place] for place in (7, 5, 2, 0)]
    np.testing.assert_allclose(gains[list(MEASURED)], tried, rtol=1e-6)
    assert gains[0] == gains[1]
    assert gains[2] == pytest.approx(np.sqrt(tried[0] * tried[1]))


def test_of_gains_that_are_about_as_good_the_smallest_is_taken() -> None:
    """A gain that is too large costs more than one that is too small."""
    gains = chosen_gains([curves_of(5, 5, 5, 5, flat=0.02)])
    np.testing.assert_allclose(gains, GAINS[3], rtol=1e-6)
