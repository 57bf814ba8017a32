"""The device of the demo: a process of its own with the light client and onnxruntime, without torch.

Reads a plan from the JSON file named on the command line, prints one JSON line for each prediction and a last one with
what the process had loaded. Run as ``python -m isplit_plugin.demo.device PLAN.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ..cli.common import read_key
from ..client import SplitClient


def run(plan: dict[str, Any]) -> None:
    """Send every shot of the plan at its cut; results go to stdout as JSON lines."""
    key_file = Path(plan["key_file"])
    # One process plays all cameras: each shot goes out under the token of its own.
    now = {"token": plan["shots"][0]["token"]}
    with SplitClient(
        plan["url"],
        model=plan["model"],
        head=plan["head"],
        token=lambda: read_key(key_file, "inference"),
        raw_scores=False,
        device_token=lambda: now["token"],
    ) as client:
        # The first run of a head builds its session: a device does that once, at start.
        for cut in {shot["cut"] for shot in plan["shots"]}:
            client.predict(plan["shots"][0]["file"], cut=cut)
        for shot in plan["shots"]:
            now["token"] = shot["token"]
            prediction = client.predict(shot["file"], cut=shot["cut"])
            times = prediction.timings
            _say(
                file=shot["file"],
                true_class=shot["class_id"],
                predicted_class=prediction.class_id,
                label=prediction.label,
                probability=prediction.probability,
                cut=str(prediction.cut),
                bytes_sent=prediction.bytes_sent,
                head_ms=times.head_ms,
                encode_ms=times.encode_ms,
                round_trip_ms=times.round_trip_ms,
                tail_ms=times.tail_ms,
                total_ms=times.total_ms,
            )
    _say(
        done=True,
        torch_loaded="torch" in sys.modules,
        onnxruntime_loaded="onnxruntime" in sys.modules,
    )


def _say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()))
