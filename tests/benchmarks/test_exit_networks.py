"""Small networks with predefined sparsity."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.exit_networks import HIDDEN, distilled, least_margin
from benchmarks.exits import fit

FEATURES = 20


@pytest.mark.parametrize("density", [1.0, 0.25])
def test_a_network_has_a_fixed_number_of_inputs_and_learns(density: float) -> None:
    random = np.random.default_rng(0)
    answers = np.arange(300) % 3
    z = 4 * random.normal(size=(3, FEATURES))[answers] + random.normal(size=(300, FEATURES))
    linear = fit("layer", z[:200], answers[:200])
    small = distilled(linear, np.arange(3), z[:200], answers[:200], density, seed=0)
    assert small.inputs.shape == (HIDDEN, round(density * FEATURES))
    assert small.hidden.shape == (3, round(density * HIDDEN))
    assert all(len(set(row)) == len(row) for row in small.inputs.tolist())
    said, margins = small.answers(z[200:])
    assert (said == answers[200:]).mean() > 0.9
    assert margins.shape == (100,)
    one, _ = small.answers(z[200:201])
    assert one[0] == said[0]


def test_the_loosest_margin_within_the_tolerance() -> None:
    margins = np.arange(200.0)
    agrees = margins >= 50
    assert least_margin(margins, agrees, 0.0) == 50
    assert least_margin(margins, agrees, 0.02) == 47
    assert least_margin(margins, ~agrees, 0.01) == float("inf")
