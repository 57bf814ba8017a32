"""A reader who types along with a tutorial."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isplit_plugin.serving.launcher.process import free_ports
from toys.polling import until

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
PORTS = ("8080", "8081", "8082", "8443")
_OPTIONS = ("inference", "management", "metrics", "forward")


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a tutorial."""
    text = (TUTORIALS / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


class Lesson:
    """A folder in which the reader of the tutorials types along."""

    def __init__(self, folder: Path, programs: Path) -> None:
        """``programs``: the folder of the `isplit` and `python` that the reader has."""
        self.folder = folder
        self.ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self.export = ""
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {
            "PATH": path,
            "ISPLIT_INFERENCE_URL": f"http://127.0.0.1:{self.ports['8080']}",
            "ISPLIT_MANAGEMENT_URL": f"http://127.0.0.1:{self.ports['8081']}",
        }

    def here(self, text: str) -> str:
        """The text with the ports of this lesson."""
        for usual, port in self.ports.items():
            text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{port}")
        return text

    def run(self, script: str) -> str:
        """What a script of the page prints."""
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


@contextmanager
def serve(lesson: Lesson, command: str) -> Iterator[None]:
    """Run `isplit serve --forward` of a tutorial, with its variables, until the block ends."""
    words = shlex.split(command)
    assignments = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
    for option, port in zip(_OPTIONS, PORTS, strict=True):
        words += [f"--{option}-port", lesson.ports[port]]
    log_path = lesson.folder / "serve.log"
    with log_path.open("w") as log:
        server = subprocess.Popen(
            words,
            cwd=lesson.folder,
            env=lesson.environment | assignments,
            stdout=log,
            stderr=log,
        )
        try:
            until(lambda: "Ctrl-C" in log_path.read_text() or server.poll() is not None, 300)
            assert server.poll() is None, log_path.read_text()
            yield
        finally:
            server.terminate()
            server.wait(timeout=60)
