"""Files in which tests failed run once more, in a process of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from toys.once_more import failed_files

ROOT = Path(__file__).parents[1]


def test_each_file_once() -> None:
    failed = {"tests/test_b.py::test[x::y]": True, "tests/test_b.py::test_2": True}
    assert failed_files(json.dumps(failed | {"tests/a.py": True})) == [
        "tests/a.py",
        "tests/test_b.py",
    ]
    assert failed_files("{}") == []


@pytest.mark.parametrize("folder", ["tests/unit", "tests/e2e"])
@pytest.mark.parametrize(("second_try", "code"), [("passes", 0), ("fails", 2)])
def test_make_runs_them_once_more(tmp_path: Path, folder: str, second_try: str, code: int) -> None:
    """The recipe of the Makefile, on a suite whose second test fails at first."""
    makefile = (ROOT / "Makefile").read_text()
    (recipe,) = re.findall(
        r"^ifeq \(\$\(ARGS\),\)\n(.*?)^else$", makefile, re.MULTILINE | re.DOTALL
    )
    (tmp_path / "Makefile").write_text(f"test:\n{recipe}")
    for name in ("tests/unit", "tests/e2e"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "test_one.py").write_text("def test() -> None: pass\n")
    (tmp_path / folder / "test_two.py").write_text(
        "from pathlib import Path\n"
        "def test_first() -> None: Path('first').open('a').write('x')\n"
        "def test_second() -> None:\n"
        f"    assert '{second_try}' == 'passes' and Path('first').read_text() == 'xx'\n"
    )
    toys = tmp_path / "tests" / "toys"
    toys.mkdir()
    (toys / "once_more.py").write_text((ROOT / "tests" / "toys" / "once_more.py").read_text())
    done = subprocess.run(
        ["make", "test", f"BIN={Path(sys.executable).parent}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={name: value for name, value in os.environ.items() if "MAKE" not in name},
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "TESTS FAILED" in done.stderr
    assert done.stderr.count(f"{folder}/test_two.py") == 1
    assert "test_one.py" not in done.stderr  # it passed, and runs once
    assert (tmp_path / "first").read_text() == "xx"
