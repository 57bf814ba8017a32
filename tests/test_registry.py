"""Objects of other packages: loaded when they are needed, and unable to break anything."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from isplit_plugin.client import RUNTIMES
from isplit_plugin.evaluation import PREDICTORS
from isplit_plugin.registry import Registry

GROUP = "isplit.tests"
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package of one module that offers entry points."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(module: str, source: str, *, group: str = GROUP, **entry_points: str) -> None:
        tmp_path.joinpath(f"{module}.py").write_text(source)
        metadata = tmp_path / f"{module}-1.0.dist-info"
        metadata.mkdir()
        metadata.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n"
        )
        lines = [f"{name} = {module}:{attribute}" for name, attribute in entry_points.items()]
        metadata.joinpath("entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return write


def numbers() -> Registry[int]:
    """A registry of integers with one built-in name."""

    def read(name: str, value: object) -> dict[str, int]:
        if not isinstance(value, int):
            raise TypeError(f"expected an int, got {type(value).__name__}")
        return {name: value}

    registry = Registry(GROUP, read)
    registry["one"] = 1
    return registry


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]


def test_a_known_name_loads_nothing(install: Install) -> None:
    install("plugin_a", "X = 2", two="X")
    registry = numbers()
    assert registry["one"] == 1
    assert "one" in registry
    assert registry.get("one") == 1
    assert "plugin_a" not in sys.modules
    assert registry["two"] == 2
    assert "plugin_a" in sys.modules


@pytest.mark.parametrize(
    "lookup", [list, len, lambda r: "two" in r, lambda r: r.get("two"), lambda r: r["two"]]
)
def test_unknown_names_and_listings_load(
    install: Install, lookup: Callable[[Registry[int]], object]
) -> None:
    install("plugin_b", "X = 2", two="X")
    registry = numbers()
    lookup(registry)
    assert "plugin_b" in sys.modules
    assert dict(registry) == {"one": 1, "two": 2}


def test_the_entry_points_are_loaded_once(install: Install) -> None:
    install(
        "plugin_c", "import builtins\nX = builtins.loads = getattr(builtins, 'loads', 0) + 1", n="X"
    )
    registry = numbers()
    for name in ("n", "unknown", "unknown", "n"):
        registry.get(name)
    assert registry["n"] == 1


def test_an_unknown_name_is_a_key_error() -> None:
    registry = numbers()
    with pytest.raises(KeyError):
        registry["nine"]
    registry["nine"] = 9
    assert registry.pop("nine") == 9
    assert "nine" not in registry


def test_broken_entry_points_are_logged_once_and_the_others_load(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("plugin_d", "raise RuntimeError('no such engine')", broken="X")
    install("plugin_e", "X, Y = 2, 'text'", missing="Z", wrong="Y", two="X")
    registry = numbers()
    for _ in range(3):
        assert sorted(registry) == ["one", "two"]
        assert "broken" not in registry
    messages = errors(caplog)
    assert len(messages) == 3
    for expected in (
        "broken = plugin_d:X of group isplit.tests is ignored: RuntimeError: no such engine",
        "missing = plugin_e:Z of group isplit.tests is ignored: AttributeError",
        "wrong = plugin_e:Y of group isplit.tests is ignored: TypeError: expected an int, got str",
    ):
        assert sum(expected in message for message in messages) == 1, expected


def test_a_name_that_is_taken_stays_what_it_is(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("plugin_f", "X = 7", one="X", seven="X")
    registry = numbers()
    assert dict(registry) == {"one": 1, "seven": 7}
    (message,) = errors(caplog)
    assert "one = plugin_f:X" in message
    assert "the name 'one' is taken" in message


def test_a_plugin_may_use_the_registry_while_it_is_loaded(install: Install) -> None:
    install("plugin_g", "import registry_of_test\nX = len(registry_of_test.registry)", g="X")
    registry = numbers()
    module = type(sys)("registry_of_test")
    module.registry = registry  # type: ignore[attr-defined]
    sys.modules["registry_of_test"] = module
    try:
        assert registry["g"] == 1
    finally:
        del sys.modules["registry_of_test"]


def test_threads_wait_until_everything_is_loaded(install: Install) -> None:
    install("plugin_h", "import time\ntime.sleep(0.2)\nX = 8", eight="X")
    registry = numbers()
    found: list[int | None] = []
    threads = [
        threading.Thread(target=lambda: found.append(registry.get("eight"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [8] * 4


@pytest.mark.parametrize(
    ("registry", "group", "built_in"),
    [(RUNTIMES, "isplit.runtimes", "torch"), (PREDICTORS, "isplit.predictors", "depth")],
)
def test_runtimes_and_predictors_of_other_packages(
    registry: Registry[Callable[..., object]],
    group: str,
    built_in: str,
    *,
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(registry, "_objects", dict(registry._objects))
    monkeypatch.setattr(registry, "_loaded", False)
    source = "def make(*arguments, **options): return options\nNUMBER = 3"
    names = {"own": "make", "wrong": "NUMBER", built_in: "make"}
    install(f"plugin_{built_in}", source, group=group, **names)
    assert registry["own"](threads=2) == {"threads": 2}
    assert "wrong" not in registry
    assert registry[built_in] is not registry["own"]
    messages = "\n".join(errors(caplog))
    assert "expected a function or a class, got int" in messages
    assert f"the name {built_in!r} is taken" in messages


def test_importing_the_client_scans_nothing() -> None:
    code = (
        "import importlib.metadata as metadata\n"
        "def scan(**_): raise AssertionError('scanned')\n"
        "metadata.entry_points = scan\n"
        "import numpy, isplit_plugin.client, isplit_plugin.wire as wire\n"
        "for codec in ('uint8+zstd', 'q4c+zstd'):\n"
        "    tensor = wire.encode_activation(numpy.ones((1, 2), 'f4'), codec)\n"
        "    wire.decode_activation(tensor, shape=(2,))\n"
        "assert wire.is_codec('q4+zstd')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
