"""The files of the live tests that failed in the last run: ``python -m toys.failed_files``.

Whole files, because tests of one file share a server and may rest on those before them.
"""

from __future__ import annotations

import json
from pathlib import Path

LIVE = "tests/e2e"
LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")


def failed_files(text: str) -> list[str]:
    """From what pytest keeps of failures; all live tests where it names none of them."""
    names = {node.partition("::")[0] for node in json.loads(text)}
    return sorted(name for name in names if name.startswith(f"{LIVE}/")) or [LIVE]


if __name__ == "__main__":
    print(*failed_files(LAST_FAILED.read_text()))
