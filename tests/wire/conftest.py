"""A served network to check requests against; nothing runs behind it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from isplit_plugin.schema import Cut, Macs, Manifest, Preprocessing, SplitPoint
from isplit_plugin.wire import CODECS


def point(name: str, shape: tuple[int, ...], *aliases: str) -> SplitPoint:
    order = tuple(range(len(shape) + 1))
    return SplitPoint(name, aliases, shape, "float32", 4 * math.prod(shape), Macs(1, 2), 1, order)


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """Two split points, one deployed."""
    return Manifest(
        model="toy",
        version="1.0",
        network_hash="abc123",
        input_shape=(3, 8, 8),
        preprocessing=Preprocessing((8, 8)),
        classes=("ant", "bee", "cat"),
        split_points=(point("conv", (4, 5, 5), "conv.relu"), point("mid", (7,))),
        deployed=("conv",),
        codecs=CODECS,
        default=Cut("conv", "uint8"),
    )


@pytest.fixture(scope="session")
def two_deployed(manifest: Manifest) -> Manifest:
    return replace(manifest, deployed=("conv", "mid"))
