"""The demo's device: a process with the light client and onnxruntime, without torch.

It reads a plan from a JSON file and prints one JSON line for each prediction. The last line says
which engines the process has loaded. Run it with ``python -m isplit_plugin.demo.device PLAN.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ..client import SplitClient, read_key


def run(plan: dict[str, Any]) -> None:
    """Send every shot of the plan at its cut, and print the results as JSON lines."""
    key_file = plan["key_file"]
    # One process plays all cameras: each shot is sent with the token of its camera.
    camera = {"token": plan["shots"][0]["token"]}
    with SplitClient(
        plan["url"],
        model=plan["model"],
        head=plan["head"],
        token=lambda: read_key(key_file),
        raw_scores=False,
        device_token=lambda: camera["token"],
    ) as client:
        # The first run of a head builds its session, which a device does once, when it starts.
        for cut in {shot["cut"] for shot in plan["shots"]}:
            client.predict(plan["shots"][0]["file"], cut=cut)
        for shot in plan["shots"]:
            camera["token"] = shot["token"]
            prediction = client.predict(shot["file"], cut=shot["cut"])
            times = prediction.timings
            _print_line(
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
    _print_line(
        done=True,
        torch_loaded="torch" in sys.modules,
        onnxruntime_loaded="onnxruntime" in sys.modules,
    )


def _print_line(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()))
