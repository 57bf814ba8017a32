"""Clocks that are wrong: ``time.time`` of a worker is shifted while the soak runs.

Python imports the module ``sitecustomize`` at the start of every process that finds it. Ours makes
``time.time`` add the seconds that a file named after the process holds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

VARIABLE: Final = "ISPLIT_SOAK_CLOCKS"
"""The environment variable that names the folder with the shifts."""

_SITECUSTOMIZE: Final = f"""
import os
import time

_real = time.time
_path = os.path.join(os.environ.get({VARIABLE!r}, "/nonexistent"), str(os.getpid()))


def _shifted():
    try:
        with open(_path) as file:
            return _real() + float(file.read())
    except (OSError, ValueError):
        return _real()


time.time = _shifted
"""


class Clocks:
    """The clocks of worker processes.

    Parameters:
        folder: An empty folder of our own.
    """

    def __init__(self, folder: Path) -> None:
        self._code = folder / "code"
        self._shifts = folder / "shifts"
        self._code.mkdir()
        self._shifts.mkdir()
        (self._code / "sitecustomize.py").write_text(_SITECUSTOMIZE)

    def environment(self) -> dict[str, str]:
        """What the workers' environment needs."""
        path = os.pathsep.join([str(self._code), os.environ.get("PYTHONPATH", "")])
        return {"PYTHONPATH": path, VARIABLE: str(self._shifts)}

    def shift(self, pid: int, seconds: float) -> None:
        """From now on, the process's clock is ahead by this much; 0 sets it right."""
        path = self._shifts / str(pid)
        if seconds:
            temporary = path.with_suffix(".new")
            temporary.write_text(repr(seconds))
            temporary.replace(path)
        else:
            path.unlink(missing_ok=True)
