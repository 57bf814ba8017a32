"""The tutorials, run as they are written, with other ports: on a real network, in a real
TorchServe.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys.lesson import Lesson, blocks, serve

SERVE = "isplit serve --forward\n"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lesson]:
    """The first tutorial up to the running server."""
    lesson = Lesson(tmp_path_factory.mktemp("tutorial"), Path(sys.executable).parent)
    install, *steps = blocks("register-a-split-model.md", "sh")
    assert install.startswith("make setup")
    before = steps[: steps.index(SERVE)]
    assert len(before) == 3
    for step in before:
        lesson.run(step)
    with serve(lesson, SERVE):
        issue, export = steps[steps.index(SERVE) + 1 :][:2]
        lesson.run(issue)
        lesson.export = export
        yield lesson


def test_register_a_split_model(lesson: Lesson) -> None:
    steps = blocks("register-a-split-model.md", "sh")
    issue, export, curl, predict = steps[steps.index(SERVE) + 1 :]
    assert (issue.split()[:3], export.split()[0]) == (["isplit", "device", "issue"], "export")
    assert "bald eagle" in lesson.run(curl)
    assert lesson.run(predict).count("cut at _blocks.10") == 20


def test_call_the_head_client(lesson: Lesson) -> None:
    script = lesson.folder / "app.py"
    script.write_text(lesson.here("\n".join(blocks("call-the-head-client.md", "python"))))
    printed = lesson.run(f"python {script}")
    assert printed.startswith("bald eagle")
    for cut in ("input:jpeg@90", "_blocks.5:uint8", "_blocks.10:uint8+zstd", "output:none"):
        assert f"\n{cut} " in printed
    # What is recommended depends on the times of this machine.
    assert len(re.findall(r"^\S+:\S+ because it is \S", printed, flags=re.MULTILINE)) == 1
    assert "_blocks.5:q4c+zstd" in printed


def test_read_the_recommendation(lesson: Lesson) -> None:
    steps = blocks("read-the-recommendation.md", "sh")
    printed = [lesson.run(step) for step in steps]
    answers = [
        json.loads(text) for step, text in zip(steps, printed, strict=True) if "curl" in step
    ]
    assert len(answers) == 4
    for answer in answers:
        assert answer["use"]["verdict"] == "picked"
    assert answers[-1]["observations"] >= 10
    assert answers[-1]["standing"] is not None
