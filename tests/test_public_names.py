"""What is public is listed, resolves, and is documented."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from public_names import docstring, documented_packages

import isplit_plugin

PUBLIC_MODULES = ("image", "photo_codecs")
"""The other modules beside the packages are helpers that several of them share."""
INTERNAL_PACKAGES = (
    *("network.correctors", "network.graphs", "network.int8", "network.transforms"),
    *("traffic.aggregates", "traffic.rows", "wire.transform"),
)
"""Parts of a package, used inside it only."""


def public_packages() -> list[str]:
    modules = pkgutil.walk_packages(isplit_plugin.__path__, "isplit_plugin.")
    internal = {f"isplit_plugin.{name}" for name in INTERNAL_PACKAGES}
    packages = [m.name for m in modules if m.ispkg and m.name not in internal]
    return sorted([*packages, *(f"isplit_plugin.{name}" for name in PUBLIC_MODULES)])


def order(name: str) -> tuple[int, str]:
    """Constants first, then classes, then functions, as ruff's RUF022 sorts them."""
    if name.isupper():
        return 0, name
    return (1 if name[0].isupper() else 2), name


def test_the_reference_lists_every_public_package() -> None:
    assert sorted(documented_packages()) == public_packages()


@pytest.mark.parametrize("package", public_packages())
def test_names_are_listed_and_resolve(package: str) -> None:
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(set(module.__all__), key=order)
    assert not [name for name in module.__all__ if not hasattr(module, name)]


@pytest.mark.parametrize("package", public_packages())
def test_names_are_documented(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__doc__, package
    assert not [name for name in module.__all__ if not docstring(package, name)]
