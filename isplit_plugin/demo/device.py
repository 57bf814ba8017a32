"""The demo's device: a process with the light client and onnxruntime, without torch.

It reads a plan from a JSON file and prints one JSON line for each prediction. The last line says
which engines the process has loaded, and how many answers of exits it sent as audits. Run it with
``python -m isplit_plugin.demo.device PLAN.json``.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any, Final

from ..client import SplitClient, read_key

_AUDITS_TIMEOUT_S: Final = 30.0


def run(plan: dict[str, Any]) -> None:
    """Send the shots of the plan at their cuts, and print the results as JSON lines.

    With ``stop_after_exit``, only so many follow the first one that an exit answered.
    """
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
        exit_key=plan.get("exit_key"),
    ) as client:
        # The first run of a head builds its session, which a device does once, when it starts.
        for cut in {shot["cut"] for shot in plan["shots"]}:
            client.predict(plan["shots"][0]["file"], cut=cut)
        left = plan.get("stop_after_exit", math.inf)
        exited = False
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
                path=prediction.path,
                bytes_sent=prediction.bytes_sent,
                head_ms=times.head_ms,
                encode_ms=times.encode_ms,
                round_trip_ms=times.round_trip_ms,
                tail_ms=times.tail_ms,
                total_ms=times.total_ms,
            )
            left -= exited
            exited = exited or prediction.path == "exit"
            if left <= 0:
                break
        audits = 0
        if client.exits is not None:
            client.exits.wait(_AUDITS_TIMEOUT_S)
            audits = client.exits.counters()["audited"]
    _print_line(
        done=True,
        audits=audits,
        torch_loaded="torch" in sys.modules,
        onnxruntime_loaded="onnxruntime" in sys.modules,
    )


def _print_line(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()))
