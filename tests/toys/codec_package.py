"""The codec package of examples/, installed into a folder of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
        timeout=120,
    )
    return target
