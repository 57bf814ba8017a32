"""Two layers in one request, for the benchmark `refinement`: ideal bits of coarse and fine
coefficients, the fine ones coded by what the coarse ones say of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from isplit_plugin.network import FittedTransforms
from isplit_plugin.schema import FloatArray
from isplit_plugin.wire import Transform

from .harness import Row, row

Array = np.ndarray

_LARGEST: Final = 60
_SYMBOLS: Final = 2 * _LARGEST + 1
_PRIOR: Final = 0.01


def layer_rows(label: str, cut: str, exact: FloatArray, fits: FittedTransforms) -> Iterator[Row]:
    """Ideal bits of both layers in one request, beside the fine quality alone."""
    for coarse, fine in ((1, 4), (2, 5), (2, 6), (3, 5), (3, 6), (3, 7)):
        layers = [
            _layers(fits.unseen(cut, number), item, coarse, fine)
            for number, item in enumerate(exact)
        ]
        half = len(layers) // 2
        both = alone = first = 0.0
        for own, others in ((layers[:half], layers[half:]), (layers[half:], layers[:half])):
            first += _bits(own, others, use=(0,))
            alone += _bits(own, others, use=(1,))
            both += _bits(own, others, use=(0,)) + _bits(own, others, use=(1, 0))
        yield row(
            f"{label}: layers {coarse} and {fine} in one request, by quality {fine} alone",
            both / alone - 1,
            "more",
            first_layer=first / alone,
        )


Layers = tuple[Array, Array, Array]


def _layers(transform: Transform | None, item: FloatArray, coarse: int, fine: int) -> Layers:
    """Classes at the fine quality, and coefficients of both (n,), of what the fine one codes."""
    assert transform is not None
    whole = []
    for quality in (coarse, fine):
        classes = transform.classes[:, transform.grid.bands].astype(np.int64)
        coded = classes.ravel() + quality * transform.spacing > 0
        values = np.zeros(len(coded), np.int64)
        values[coded] = transform.plan(quality).quantise(item)
        whole.append(values)
    classes = np.minimum(classes.ravel() + fine * transform.spacing, len(transform.tables) - 1)
    return classes[coded], whole[0][coded], whole[1][coded]


def _bits(own: Sequence[Layers], others: Sequence[Layers], *, use: tuple[int, ...]) -> float:
    """Bits of one layer of ``own``, by counts of ``others``.

    ``use``: the layer, and the other layer where its coefficient is known. A coefficient is coded
    with its sign, which a first layer that is not zero tells.
    """

    def keys(layers: Sequence[Layers]) -> tuple[Array, Array]:
        classes = np.concatenate([one[0] for one in layers])
        value = np.concatenate([one[1 + use[0]] for one in layers])
        symbol = np.clip(value, -_LARGEST, _LARGEST)
        if len(use) == 1:
            return classes * _SYMBOLS, symbol + _LARGEST
        known = np.concatenate([one[1 + use[1]] for one in layers])
        # By symmetry the known sign is turned positive, and the coefficient with it.
        symbol = np.where(known < 0, -symbol, symbol)
        known = np.minimum(np.abs(known), _LARGEST)
        return (classes * (_LARGEST + 1) + known) * _SYMBOLS, symbol + _LARGEST

    own_context, own_symbol = keys(own)
    other_context, other_symbol = keys(others)
    size = int(max(own_context.max(), other_context.max())) + _SYMBOLS
    counts = np.bincount(other_context + other_symbol, minlength=size).reshape(-1, _SYMBOLS)
    smooth = counts + _PRIOR
    cost = -np.log2(smooth / smooth.sum(axis=1, keepdims=True)).ravel()
    return float(cost[own_context + own_symbol].sum())
