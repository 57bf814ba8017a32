"""The demo's probing devices: a process with torch heads that completes curves without a photo.

It reads a plan from a JSON file and prints one JSON line for each probe. Run it with
``python -m isplit_plugin.demo.prober PLAN.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ..client import SplitClient, read_key
from ..probing import ProbeClient


def run(plan: dict[str, Any]) -> None:
    """Probe with every shot of the plan at its cut, and print the results as JSON lines."""
    key_file = plan["key_file"]
    camera = {"token": ""}
    client = SplitClient(
        plan["url"],
        model=plan["model"],
        head=plan["head"],
        token=lambda: read_key(key_file),
        runtime="torch",
        trust_pt2=plan["trust_pt2"],
        threads=1,
        device_token=lambda: camera["token"],
    )
    with ProbeClient(client) as device:
        for shot in plan["shots"]:
            camera["token"] = shot["token"]
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
