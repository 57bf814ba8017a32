"""A worker's numpy products have one thread: a second one that waits for a core costs more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from threadpoolctl import threadpool_info, threadpool_limits
from toys.serving import Worker

from isplit_plugin.serving.endpoint import Endpoint


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """As numpy has them on a machine with two cores; afterwards as before."""
    with threadpool_limits(limits=2, user_api="blas"):
        assert blas_threads() == {2}
        yield


def test_tail(model_dir: Path, store_url: str) -> None:
    Worker(model_dir).close()
    assert blas_threads() == {1}


def test_endpoint(store_url: str) -> None:
    Endpoint(SimpleNamespace(model_yaml_config={})).close()
    assert blas_threads() == {1}
