"""The tutorials, run as they are written, with other ports: on a real network, in a real
TorchServe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from toys.pages import DOCS, Reader, blocks

TUTORIALS = DOCS / "tutorials"
SERVE = "isplit serve --forward\n"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """The first tutorial up to the running server."""
    lesson = Reader(tmp_path_factory.mktemp("tutorial"))
    install, *steps = blocks((TUTORIALS / "register-a-split-model.md").read_text(), "sh")
    assert install.startswith("make setup")
    before = steps[: steps.index(SERVE)]
    assert len(before) == 3
    for step in before:
        lesson.run(step)
    with lesson.serving(SERVE):
        issue, export = steps[steps.index(SERVE) + 1 :][:2]
        lesson.run(issue)
        lesson.exports = export
        yield lesson


def test_register_a_split_model(lesson: Reader) -> None:
    steps = blocks((TUTORIALS / "register-a-split-model.md").read_text(), "sh")
    issue, export, curl, predict = steps[steps.index(SERVE) + 1 :]
    assert (issue.split()[:3], export.split()[0]) == (["isplit", "device", "issue"], "export")
    assert "bald eagle" in lesson.run(curl)
    assert lesson.run(predict).count("cut at _blocks.10") == 20


def test_call_the_head_client(lesson: Reader) -> None:
    script = lesson.folder / "app.py"
    page = (TUTORIALS / "call-the-head-client.md").read_text()
    script.write_text(lesson.here("\n".join(blocks(page, "python"))))
    printed = lesson.run(f"python {script}")
    assert printed.startswith("bald eagle")
    for cut in ("input:jpeg@90", "_blocks.5:uint8", "_blocks.10:uint8+zstd", "output:none"):
        assert f"\n{cut} " in printed
    # What is recommended depends on the times of this machine.
    assert len(re.findall(r"^\S+:\S+ because it is \S", printed, flags=re.MULTILINE)) == 1
    assert "_blocks.5:q4c+zstd" in printed


def test_read_the_recommendation(lesson: Reader) -> None:
    steps = blocks((TUTORIALS / "read-the-recommendation.md").read_text(), "sh")
    printed = [lesson.run(step) for step in steps]
    answers = [
        json.loads(text) for step, text in zip(steps, printed, strict=True) if "curl" in step
    ]
    assert len(answers) == 4
    for answer in answers:
        assert answer["use"]["verdict"] == "picked"
    assert answers[-1]["observations"] >= 10
    assert answers[-1]["standing"] is not None
