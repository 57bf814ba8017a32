"""The list of attacks names tests that exist, and every file of this folder."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def test_every_named_test_exists_and_every_attack_is_named() -> None:
    named = set(
        re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py)`", (HERE / "README.md").read_text())
    )
    assert not [path for path in sorted(named) if not (ROOT / path).is_file()]
    files = {str(path.relative_to(ROOT)) for path in HERE.glob("test_*.py")}
    assert files - named == {"tests/attacks/test_readme.py"}
