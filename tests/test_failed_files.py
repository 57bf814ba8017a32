"""Live tests that failed run once more by whole files, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toys.failed_files import LIVE, failed_files

ROOT = Path(__file__).parents[1]


def test_the_files_of_live_tests_alone() -> None:
    failed = {f"{LIVE}/test_b.py::test[x::y]": True, f"{LIVE}/test_b.py::test_2": True}
    others = {f"{LIVE}/test_a.py": True, "tests/test_c.py::test_3": True}
    expected = [f"{LIVE}/test_a.py", f"{LIVE}/test_b.py"]
    assert failed_files(json.dumps(failed | others)) == expected
    assert failed_files("{}") == [LIVE]


@pytest.mark.parametrize(("second_try", "code"), [("passes", 0), ("fails", 2)])
def test_make_runs_them_once_more(tmp_path: Path, second_try: str, code: int) -> None:
    """The recipe of the Makefile, on a suite whose second test fails at first."""
    (recipe,) = (ROOT / "Makefile").read_text().split("--ignore=tests/e2e\n")[1:]
    recipe = recipe.partition("else\n")[0]
    (tmp_path / "Makefile").write_text(f"test:\n{recipe}")
    folder = tmp_path / LIVE
    folder.mkdir(parents=True)
    (folder / "test_one.py").write_text("def test() -> None: pass\n")
    (folder / "test_two.py").write_text(
        "from pathlib import Path\n"
        "def test_first() -> None: Path('first').open('a').write('x')\n"
        "def test_second() -> None:\n"
        f"    assert '{second_try}' == 'passes' and Path('first').read_text() == 'xx'\n"
    )
    toys = tmp_path / "tests" / "toys"
    toys.mkdir()
    (toys / "failed_files.py").write_text((ROOT / "tests" / "toys" / "failed_files.py").read_text())
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
    assert "LIVE TESTS FAILED" in done.stderr
    assert done.stdout.count("test_one.py") == 1  # it passed, and runs once
    assert (tmp_path / "first").read_text() == "xx"
