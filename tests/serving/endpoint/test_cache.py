"""The endpoint's cache against a plain dict, and its bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.serving.endpoint.cache import Cache

T = TypeVar("T")

STEPS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 40)), min_size=1, max_size=60
)


def loader(value: T, loads: list[object]) -> Callable[[], T]:
    def load() -> T:
        loads.append(value)
        return value

    return load


def test_a_value_is_loaded_once_for_each_version() -> None:
    cache = Cache()
    loads: list[object] = []
    for version, value in ((1, "a"), (1, "b"), (2, "c"), (2, "d"), (1, "e")):
        cache.get("key", version, loader(value, loads), len)
    assert loads == ["a", "c", "e"]
    assert len(cache) == 1


def test_a_failed_load_keeps_nothing() -> None:
    cache = Cache()

    def fail() -> str:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        cache.get("key", 1, fail, len)
    assert len(cache) == 0
    assert cache.get("key", 1, lambda: "there", len) == "there"


def test_the_least_recently_used_goes_first() -> None:
    cache = Cache(max_entries=2)
    loads: list[object] = []
    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get(key, 1, loader(key, loads), len)
    assert loads == ["a", "b", "c", "b"]


def test_nothing_of_an_older_version_is_kept() -> None:
    cache = Cache()
    for number in range(50):
        cache.get(f"first {number}", 1, lambda: "x" * 1000, len)
    cache.get("second", 2, lambda: "y", len)
    assert (len(cache), cache.nbytes) == (1, 1)


def test_a_value_above_the_bound_is_answered_and_not_kept() -> None:
    cache = Cache(max_bytes=100)
    cache.get("small", 1, lambda: "x", len)
    assert cache.get("large", 1, lambda: "y" * 101, len) == "y" * 101
    assert (len(cache), cache.nbytes) == (1, 1)


@given(STEPS)
def test_any_order_of_use_stays_within_the_bounds_and_gives_the_loaded_value(
    steps: list[tuple[int, int, int]],
) -> None:
    cache = Cache(max_entries=4, max_bytes=100)
    sizes: dict[int, int] = {}
    for key, version, size in steps:
        load = loader((key, version, size), [])
        value = cache.get(key, version, load, lambda entry: entry[2])
        assert value[:2] == (key, version)
        sizes[key] = value[2]
        assert len(cache) <= 4
        assert cache.nbytes <= 100
        assert cache.nbytes <= sum(sizes.values())
