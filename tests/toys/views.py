"""Comparing live views."""

from __future__ import annotations

import numpy as np
import pytest

from isplit_plugin.advice import LiveView


def assert_same(a: LiveView, b: LiveView, rel: float = 1e-12, *, served: bool = True) -> None:
    """Equal contents; ``rel``: of the sums. The revision may differ."""
    assert [(r.source, r.target) for r in a.importance] == [
        (r.source, r.target) for r in b.importance
    ]
    for x, y in zip(a.importance, b.importance, strict=True):
        assert np.array_equal(x.class_ids, y.class_ids)
        for name in ("count", "weight", "weight2", "sum1", "sum2"):
            assert getattr(x, name) == pytest.approx(getattr(y, name), rel=rel, abs=1e-13), name
    assert [o[:2] for o in a.outcomes] == [o[:2] for o in b.outcomes]
    for one, other in zip(a.outcomes, b.outcomes, strict=True):
        assert one[2:] == pytest.approx(other[2:], rel=rel)
    if not served:
        return
    assert [(s.cut, s.group, s.requests, s.errors, s.bytes, s.tail.count) for s in a.served] == [
        (s.cut, s.group, s.requests, s.errors, s.bytes, s.tail.count) for s in b.served
    ]
    assert (a.as_of, a.observations, a.group) == (b.as_of, b.observations, b.group)
