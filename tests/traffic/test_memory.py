"""What a worker that writes and reads for long keeps in memory."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import numpy as np
from toys.traffic import CLASSES, NETWORK, POINTS, manifest, observation, profile

from isplit_plugin.traffic import Delta, Store
from isplit_plugin.traffic.aggregates.moments import DEFAULT_HALF_LIFE_S

WARM_UP = 20
ROUNDS = 100
GROUPS = 3


def test_memory_does_not_grow_with_the_number_of_flushes_and_views(path: Path) -> None:
    """A flush and a view make new bytes of the hour's times, which nobody reads a second time."""
    rng = np.random.default_rng(0)
    with Store(path) as store:
        store.put_network(manifest(), profile())
        for _ in range(WARM_UP):
            _flush_and_view(store, rng)
        tracemalloc.start()
        try:
            _flush_and_view(store, rng)
            before = _in_use()
            for _ in range(ROUNDS):
                _flush_and_view(store, rng)
            after = _in_use()
        finally:
            tracemalloc.stop()
    assert after - before < 2000 * ROUNDS


def _in_use() -> int:
    """Bytes; without SQLAlchemy's cycles, which wait for the collector."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _flush_and_view(store: Store, rng: np.random.Generator) -> None:
    delta = Delta(np.full(POINTS, 0.5), DEFAULT_HALF_LIFE_S, CLASSES)
    for group in range(GROUPS):
        for decode_ms, tail_ms in rng.lognormal(1.0, 2.0, (20, 2)):
            delta.add_observation(
                observation(
                    at=1e9,
                    group=f"group {group}",
                    decode_ms=float(decode_ms),
                    tail_ms=float(tail_ms),
                )
            )
    store.add(NETWORK, delta)
    assert len(store.view(NETWORK).served) == GROUPS
