"""The wheel in an environment of its own: what it holds, and that its documentation is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from isplit_plugin.cli.docs import pages

ROOT = Path(__file__).parents[1]
_PARTS = ("isplit_plugin", "handlers", "config", "docs")
_FILES = ("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE")


def _run(*words: str | Path, cwd: Path | None = None) -> str:
    # PYTHONPATH may name the checkout.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline from a copy of the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in _PARTS:
        ignored = shutil.ignore_patterns("__pycache__", "_build")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in _FILES:
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("dist")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps")
    _run(*pip, "--no-build-isolation", "-w", out, source)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment's Python: the wheel alone, and this environment's other packages behind it."""
    folder = tmp_path_factory.mktemp("environment")
    _run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index")
    _run(*pip, "--no-deps", wheel)
    purelib = Path(
        _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    )
    (purelib / "others.pth").write_text(sysconfig.get_path("purelib"))
    return python


def test_the_documentation_is_installed(installed: Path, tmp_path: Path) -> None:
    isplit = installed.parent / "isplit"
    listed = _run(isplit, "docs", cwd=tmp_path)
    assert [line.split()[0] for line in listed.splitlines()] == list(pages(ROOT))
    assert _run(isplit, "docs", "settings", cwd=tmp_path).startswith("# Settings")
    assert _run(isplit, "docs", "changelog", cwd=tmp_path).startswith("# Changelog")
    folder = Path(_run(isplit, "docs", "--path", cwd=tmp_path).strip())
    assert installed.parent.parent in folder.parents


def test_the_wheel_holds_what_the_package_needs_and_nothing_beside_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    assert len(names) == len(set(names))
    assert {name.split("/")[0] for name in names} == {"isplit_plugin", metadata.split("/")[0]}
    for name in ("_config/log4j2.xml", "_handlers/tail_handler.py", "_docs/docs/index.md"):
        assert f"isplit_plugin/{name}" in names
    # Nothing is published yet, so there is no address to give.
    assert "Project-URL" not in text
    assert "`isplit docs`" in text
