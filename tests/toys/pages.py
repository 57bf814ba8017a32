"""Pages of the documentation, and a reader who types along: on other ports, in a folder of their
own.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isplit_plugin.serving.launcher.ports import free_ports
from toys.polling import until

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PORTS = {"inference": "8080", "management": "8081", "metrics": "8082", "forward": "8443"}
"""The ports that pages name, by the option of ``isplit serve``."""


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a page, also those that are indented."""
    pattern = rf"^( *)```{language}\n(.*?)^\1```"
    matches = re.findall(pattern, text, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in matches]


def command_lines(script: str) -> list[str]:
    """The lines of a script, each with those that a backslash joins to it."""
    return script.replace("\\\n", " ").splitlines()


def undocumented(answer: Any, page: str) -> set[str]:
    """The fields of an answer, at any depth, that a page of the reference does not name."""
    text = (DOCS / "reference" / page).read_text()
    return {name for name in _fields(answer) if f"`{name}`" not in text}


def _fields(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from value
    nested = value.values() if isinstance(value, Mapping) else value
    for inner in () if isinstance(nested, str) or not isinstance(nested, Iterable) else nested:
        yield from _fields(inner)


class Reader:
    """A folder in which the reader of a page types along.

    Attributes:
        folder: Where scripts run.
        ports: The port that is used for each that pages name.
        environment: The variables of every script.
        exports: What the reader has exported: runs before every script.
    """

    def __init__(self, folder: Path, programs: Path = Path(sys.executable).parent) -> None:
        """``programs``: the folder of the `isplit` and `python` that the reader has."""
        self.folder = folder
        self.ports = dict(zip(PORTS.values(), map(str, free_ports(len(PORTS))), strict=True))
        self.exports = ""
        self.environment = os.environ | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "ISPLIT_INFERENCE_URL": self.url,
            "ISPLIT_MANAGEMENT_URL": self.here("http://127.0.0.1:8081"),
        }

    @property
    def url(self) -> str:
        """The inference address."""
        return self.here("http://127.0.0.1:8080")

    def here(self, text: str) -> str:
        """A page's text with the ports of this reader."""
        for usual, port in self.ports.items():
            text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{port}")
        return text

    def run(self, script: str, *, code: int = 0) -> str:
        """What a script prints: errors if it is to fail. Another exit code fails the test."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.here(f"{self.exports}\n{script}")],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        assert done.returncode == code, f"{script}\n{done.stdout}\n{done.stderr}"
        assert '"error"' not in done.stdout, done.stdout
        return done.stdout if code == 0 else done.stderr

    @contextmanager
    def serving(self, command: str) -> Iterator[None]:
        """``isplit serve`` as a page writes it, with its variables, until the end."""
        words = shlex.split(command)
        variables = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
        words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
        for option, usual in PORTS.items():
            words += [f"--{option}-port", self.ports[usual]]
        log_path = self.folder / "serve.log"
        with log_path.open("w") as log:
            server = subprocess.Popen(
                words,
                cwd=self.folder,
                env=self.environment | variables,
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
