"""The demo's devices that probe: a process of its own with torch heads, which completes curves without sending a photo.

Reads a plan from the JSON file named on the command line, prints one JSON line for each probe. Run as
``python -m isplit_plugin.demo.prober PLAN.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ..cli.common import read_key
from ..client import SplitClient
from ..probing import ProbeClient


def run(plan: dict[str, Any]) -> None:
    """Probe with every shot of the plan at its split point; results go to stdout as JSON lines."""
    key_file = Path(plan["key_file"])
    now = {"token": ""}
    client = SplitClient(
        plan["url"],
        model=plan["model"],
        head=plan["head"],
        token=lambda: read_key(key_file, "inference"),
        runtime="torch",
        trust_pt2=plan["trust_pt2"],
        threads=1,
        device_token=lambda: now["token"],
    )
    with ProbeClient(client) as device:
        for shot in plan["shots"]:
            now["token"] = shot["token"]
            result = device.probe(shot["file"], shot["cut"])
            line = {
                "class_id": result.class_id,
                "cut": str(result.cut),
                "points": result.points,
                "bytes_sent": result.bytes_sent,
                "device_ms": result.forward_ms + result.backward_ms,
                "requests_ms": result.request_ms + result.report_ms,
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()))
