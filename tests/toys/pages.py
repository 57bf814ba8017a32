"""Pages of the documentation that are run as a reader types them: on other ports, in a folder of
their own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from isplit_plugin.serving.launcher.process import free_ports
from toys.polling import until

DOCS = Path(__file__).parents[2] / "docs"
PORTS = ("8080", "8081", "8082")
"""The ports of inference, management and metrics that pages name."""


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page, by its path in ``docs``."""
    text = (DOCS / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


class Reader:
    """A folder in which the reader of a page types along.

    ``environment``: variables besides those of this process.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        # As in the reader's environment: `isplit` and `python` are those of this one.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {
            **os.environ,
            "PATH": path,
            "ISPLIT_URL": self.url,
            "ISPLIT_INFERENCE_URL": self.url,
            "ISPLIT_MANAGEMENT_URL": f"http://127.0.0.1:{self.ports['8081']}",
            **(environment or {}),
        }

    @property
    def url(self) -> str:
        """The inference address."""
        return f"http://127.0.0.1:{self.ports['8080']}"

    def here(self, text: str) -> str:
        """A page's text with the ports of this reader."""
        for usual, port in self.ports.items():
            text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{port}")
        return text

    def run(self, script: str, *, code: int = 0) -> str:
        """What a script prints. Anything but this exit code fails the test."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.here(script)],
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
    def serving(self, *options: str) -> Iterator[None]:
        """``isplit serve`` in this folder, until the end."""
        command = ["isplit", "serve", *options]
        for option, port in zip(("inference", "management", "metrics"), PORTS, strict=True):
            command += [f"--{option}-port", self.ports[port]]
        with (self.folder / "serve.log").open("w") as log:
            server = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
            try:
                until(lambda: "Ctrl-C" in (self.folder / "serve.log").read_text(), 300)
                yield
            finally:
                server.terminate()
                server.wait(timeout=60)
