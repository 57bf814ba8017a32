"""The bare client: installed size and import time, in a virtual environment of its own."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from .harness import Row, row

_CODE = (
    "import time; t = time.perf_counter(); import {module}; print((time.perf_counter() - t) * 1e3)"
)


def _import_ms(python: Path, module: str, rounds: int) -> float:
    command = [str(python), "-c", _CODE.format(module=module)]
    return statistics.median(
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(rounds)
    )


def _size_mb(python: Path) -> float:
    code = (
        "import pathlib, site\n"
        "p = pathlib.Path(site.getsitepackages()[0])\n"
        "skip = {'pip', 'setuptools'}\n"
        "print(sum(f.stat().st_size for f in p.rglob('*') if f.is_file() and f.relative_to(p).parts[0].split('-')[0]"
        " not in skip and '__pycache__' not in f.parts))"
    )
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout) / 1e6


def run(quick: bool = False) -> list[Row]:
    """Size of the base install and of the one with onnxruntime; import time against that of
    requests and numpy.
    """
    root = Path(__file__).resolve().parent.parent
    rounds = 3 if quick else 11
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder, "bin", "python")
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "-c",
            str(root / "constraints.txt"),
        ]
        for extras in ("", "[onnx]"):
            subprocess.run([*install, f"{root}{extras}"], check=True, stderr=subprocess.DEVNULL)
            rows.append(row(f"installed size, isplit-plugin{extras}", _size_mb(python), "MB"))
        rival = _import_ms(python, "numpy, requests", rounds)
        for module in ("isplit_plugin.client", "isplit_plugin.client, onnxruntime"):
            value = _import_ms(python, module, rounds)
            rows.append(
                row(
                    f"import {module}",
                    value,
                    "ms",
                    rival="import numpy, requests",
                    rival_value=rival,
                    ratio=value / rival,
                )
            )
    return rows
