"""What an extra brings is enough for what is said to need it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        # The demo and the reports come without the simulator's SimPy.
        ("isplit_plugin.report, isplit_plugin.demo, isplit_plugin.simulation", "simpy"),
        ("isplit_plugin.client", "torch"),
        # Only signing and verifying need it, and the fit of an exit is numpy's alone.
        ("isplit_plugin.client, isplit_plugin.exits", "cryptography"),
        ("isplit_plugin.exits", "scipy"),
    ],
)
def test_packages_are_imported_without(modules: str, absent: str) -> None:
    code = f"import sys; sys.modules[{absent!r}] = None; import {modules}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
