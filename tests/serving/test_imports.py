"""What each program of serving loads: a worker's start and memory depend on it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("program", "heavy"),
    [
        ("isplit_plugin.serving.endpoint", {"torch", "ts", "onnx", "yaml", "matplotlib"}),
        ("isplit_plugin.serving.launcher", {"torch", "ts", "onnx", "sqlalchemy", "matplotlib"}),
    ],
)
def test_a_program_loads_no_library_that_it_does_not_need(program: str, heavy: set[str]) -> None:
    code = f"import sys, {program}; print(sorted({heavy!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
