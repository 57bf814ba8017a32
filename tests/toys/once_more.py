"""Run the files in which tests failed once more: ``python -m toys.once_more EXIT_CODE_OF_PYTEST``.

Whole files, because tests of one file share a server and may rest on those before them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")


def failed_files(text: str) -> list[str]:
    """The files of the tests in what pytest keeps of failures."""
    return sorted({node.partition("::")[0] for node in json.loads(text)})


def main(code: int) -> int:
    """The exit code of the second try; ``code`` itself where there is nothing to try."""
    if code != pytest.ExitCode.TESTS_FAILED or not LAST_FAILED.exists():
        return code
    files = failed_files(LAST_FAILED.read_text())
    if not files:
        return code
    print(
        "TESTS FAILED. Their files run once more; if they pass now, that is a defect to mend:",
        *files,
        file=sys.stderr,
        flush=True,
    )
    return subprocess.call([sys.executable, "-m", "pytest", *files])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
