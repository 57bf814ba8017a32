"""Predictions through a real server equal the network run whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from e2e_types import Live
from serving_toys import head_of, tensor_request, whole


@pytest.mark.parametrize("point", ["input", "relu1", "relu2"])
def test_a_toy_split_anywhere(live: Live, point: str) -> None:
    x = torch.randn(2, 3, 16, 16)
    request = tensor_request(
        head_of(live.toy.net, point, x), point, network_hash=live.toy.manifest.network_hash, scores=True
    )
    got, expected = live.predict("toy", request), whole(live.toy.net, x)
    np.testing.assert_allclose(got.scores, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(got.top_class, np.argsort(-expected, axis=1)[:, :5])
