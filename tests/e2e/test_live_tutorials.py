"""The tutorials, run as they are written, with other ports: on a real network, in a real
TorchServe.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys.polling import until

from isplit_plugin.serving.launcher.process import free_ports

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
PORTS = ("8080", "8081", "8082", "8443")
SERVE = "isplit serve --forward\n"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def blocks(page: str, language: str) -> list[str]:
    text = (TUTORIALS / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


class Lesson:
    """A folder in which the reader of the tutorials types along."""

    def __init__(self, folder: Path, ports: list[str]) -> None:
        self.folder = folder
        self.ports = dict(zip(PORTS, ports, strict=True))
        self.export = ""
        # As in the reader's environment: `isplit` and `python` are those of this one.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {
            "PATH": path,
        }

    def here(self, text: str) -> str:
        for usual, port in self.ports.items():
            text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{port}")
        return text

    def run(self, script: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.here(f"{self.export}\n{script}")],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        assert '"error"' not in done.stdout, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lesson]:
    """The first tutorial up to the running server."""
    lesson = Lesson(
        tmp_path_factory.mktemp("tutorial"), [str(port) for port in free_ports(len(PORTS))]
    )
    install, *steps = blocks("register-a-split-model.md", "sh")
    assert install.startswith("make setup")
    before = steps[: steps.index(SERVE)]
    assert len(before) == 3
    for step in before:
        lesson.run(step)
    command = SERVE.split()
    options = ("inference", "management", "metrics", "forward")
    for option, port in zip(options, PORTS, strict=True):
        command += [f"--{option}-port", lesson.ports[port]]
    with (lesson.folder / "serve.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=lesson.folder, env=lesson.environment, stdout=log, stderr=log
        )
        try:
            until(lambda: "Ctrl-C" in (lesson.folder / "serve.log").read_text(), 300)
            issue, export = steps[steps.index(SERVE) + 1 :][:2]
            lesson.run(issue)
            lesson.export = export
            yield lesson
        finally:
            server.terminate()
            server.wait(timeout=60)


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
    assert printed.count("\ninput:") == 2
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
