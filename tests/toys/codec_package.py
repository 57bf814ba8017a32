"""The codec package of examples/, installed into a folder of its own."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isplit_plugin.wire import codecs, register

CODEC_PACKAGE = Path(__file__).parents[2] / "examples" / "codec_package"


@pytest.fixture(scope="session")
def codec_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH: pip installed the package there, offline, with its metadata."""
    source = tmp_path_factory.mktemp("source") / "codec_package"
    shutil.copytree(CODEC_PACKAGE, source)  # a build must not write into the checkout
    target = tmp_path_factory.mktemp("codec_package")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(target), str(source)],
        check=True,
        timeout=600,
    )
    return target


@pytest.fixture(scope="session")
def registered_codec_package(codec_package: Path) -> Iterator[Path]:
    """The same folder; the package's codecs are registered in this process as well."""
    spec = importlib.util.spec_from_file_location(
        "isplit_bfloat16", codec_package / "isplit_bfloat16.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for codec in module.CODECS:
        register(codec)
    yield codec_package
    for codec in module.CODECS:
        del codecs._CODECS[codec.name]
