"""Transforms that no network needs: random matrices, and tables from integers alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from isplit_plugin.wire.transform.coefficients import ALPHABET
from isplit_plugin.wire.transform.grid import Grid
from isplit_plugin.wire.transform.rans import PRECISION
from isplit_plugin.wire.transform.transform import Transform

TABLES = 40


def integer_tables(tables: int = TABLES) -> npt.NDArray[np.uint16]:
    """Geometric frequencies by integer arithmetic, the same on every machine."""
    rows = []
    for number in range(tables):
        weights = [4**20 * (number + 1) ** n // (number + 3) ** n for n in range(ALPHABET)]
        spare = (1 << PRECISION) - ALPHABET
        row = [1 + spare * weight // sum(weights) for weight in weights]
        row[0] += (1 << PRECISION) - sum(row)
        rows.append(row)
    return np.array(rows, np.uint16)


def toy_transform(
    shape: tuple[int, ...] = (6, 5, 4),
    channel_axis: int = 1,
    *,
    components: int | None = None,
    network_hash: str = "ab" * 32,
    split_point: str = "conv",
    step: float = 0.5,
    low: float = -1e30,
) -> Transform:
    """A transform with an orthogonal encoder. All its bands are coded at all qualities."""
    rng = np.random.default_rng(0)
    grid = Grid.of(shape, channel_axis)
    channels = shape[channel_axis - 1]
    kept = channels if components is None else components
    basis = np.linalg.qr(rng.normal(size=(channels, channels)))[0][:kept]
    bands = grid.band_count
    return Transform(
        network_hash=network_hash,
        split_point=split_point,
        shape=shape,
        channel_axis=channel_axis,
        encoder=basis.astype(np.float16),
        decoder=np.ascontiguousarray(basis.T).astype(np.float16),
        mean=rng.normal(size=(1 + grid.prefix, channels)).astype(np.float32),
        widths=np.ones((kept, bands), np.float16),
        classes=np.tile(np.arange(bands, 0, -1, dtype=np.int8), (kept, 1)),
        tables=integer_tables(),
        centroids=np.zeros((TABLES, 3), np.float16),
        gains=np.ones(8, np.float32),
        step=step,
        spacing=2,
        low=low,
        high=1e30,
    )
