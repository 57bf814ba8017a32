"""A device in a process of its own: it predicts the photos of each kind that it is told to.

It reads a JSON object a line, ``{"classes": [...], "seed": n}``, predicts one photo for each entry,
and writes a JSON list of ``{"class", "label", "path", "sent"}``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

CUT = "relu1:uint8"


class Device:
    """The parent's end of such a process."""

    def __init__(self, options: dict[str, Any]) -> None:
        folders = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        path = os.pathsep.join(folders)
        command = [sys.executable, "-m", "toys.exit_device", json.dumps(options)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def start(self, classes: list[int], seed: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"classes": classes, "seed": seed}) + "\n")
        self._process.stdin.flush()

    def results(self) -> list[dict[str, Any]]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the device ended with {self._process.wait()}"
        return list(json.loads(line))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(120) == 0
        self._process.stdout.close()


def main(options: dict[str, Any]) -> None:
    from isplit_plugin.client import SplitClient
    from toys.exit_photos import photos_of

    prototypes = np.load(options["prototypes"])
    keys = Path(options["key_file"])
    with SplitClient(
        options["url"],
        model="leaver",
        head=options["head"],
        token=lambda: str(json.loads(keys.read_text())["inference"]["key"]),
        cut=CUT,
        exit_key=options["exit_key"],
    ) as client:
        for line in sys.stdin:
            asked = json.loads(line)
            random = np.random.default_rng(asked["seed"])
            rows = []
            for class_id in asked["classes"]:
                (photo,) = photos_of(prototypes[class_id], 1, random)
                prediction = client.predict(photo)
                rows.append(
                    {
                        "class": class_id,
                        "label": prediction.label,
                        "path": prediction.path,
                        "sent": prediction.bytes_sent,
                    }
                )
            print(json.dumps(rows), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
