"""The demo while the server runs: devices send photos and probes, and the endpoint is asked."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from ..client import HeadBundle, fetch_recommendation
from ..device_tokens import issue, read_secret
from ..errors import ServingError
from ..schema import ON_DEVICE, Cut, Recommendation
from ..serving.launcher import TorchServe
from ..serving.packaging import Built
from ..terminal import kilobytes
from .phase import Phase, Scenarios
from .photos import Photo, view
from .preparation import MODEL

LINK: Final = {"bandwidth_mbps": 4.0, "rtt_ms": 30.0, "device_slowdown": 16.0}
"""The link and the device that the phases ask for: a modest uplink and a small board."""
UPLINKS: Final = (0.5, 1.0, 4.0, 20.0)
SLOWDOWNS: Final = (1.0, 4.0, 16.0, 64.0)
CODEC: Final = "uint8+zstd"
"""The codec at split points where no codec was faithful."""
PROBES: Final = 40

_DEVICE_TIMEOUT_S: Final = 150.0
_SETTLE_TIMEOUT_S: Final = 60.0


class Traffic:
    """What happens between devices and a running server.

    Parameters:
        server: a running TorchServe with the demo's model and device tokens.
        built: the files of the model.
        scratch: a folder for photos and plans.
        views: how often a phase shows each photo. Every view comes from a camera of its own.
        seed: for crops and flips.
    """

    def __init__(
        self, server: TorchServe, built: Built, scratch: Path, *, views: int, seed: int
    ) -> None:
        self.server = server
        self.built = built
        self.scratch = scratch
        self.views = views
        self.seed = seed
        secret = read_secret(server.secret_path)
        self.tokens = [issue(secret, f"camera-{number}", days=1) for number in range(views)]

    def recommendation(
        self, classes: Sequence[int] | None = None, link: Mapping[str, Any] = LINK
    ) -> Recommendation:
        """The endpoint's answer for the live mix, or for these classes."""
        server = self.server
        return fetch_recommendation(
            server.inference_url, MODEL, server.token, classes, None, timeout=(5.0, 30.0), **link
        )

    def phase(self, number: int, name: str, photos: Sequence[Photo]) -> Phase:
        """Send views of the photos from a device process, wait for the statistics, ask again."""
        shots = self._shots(number, name, photos)
        rows, summary = self.run_device("device", shots)
        torch_loaded = "yes" if summary["torch_loaded"] else "no"
        print(f"{len(rows)} predictions by a device process (torch loaded there: {torch_loaded})")
        classes = tuple(sorted({photo.class_id for photo in photos}))
        self._settle()
        return Phase(name, rows, self.recommendation(classes), classes)

    def probe(self, phase: Phase) -> list[str]:
        """Devices with torch heads complete the curves of a phase's classes.

        Returns sentences that say what was sent and what changed.
        """
        # The tail names split points where a gradient gives none of its weights away.
        point = self.server.describe(MODEL)[0]["probes"]["split_points"][-1]
        cut = self.usual_cut(point)
        files = list(dict.fromkeys(row["file"] for row in phase.rows))
        photos = len(files) // self.views
        shots = [
            {"file": file, "cut": str(cut), "token": self.tokens[index // photos]}
            for index, file in enumerate(files[:PROBES])
        ]
        bundle = HeadBundle(self.built.bundle)
        bundle_hash = bundle.sha256
        bundle.close()
        rows, last = self.run_device("prober", shots, {"trust_pt2": bundle_hash})
        return self._probe_sentences(phase, cut, [*rows, last])

    def scenarios(self) -> Scenarios:
        """What the endpoint advises for the live mix, by uplink and speed of the device."""
        rows = []
        for uplink in UPLINKS:
            row = [f"{uplink:g} Mbit/s"]
            for slowdown in SLOWDOWNS:
                link = {"bandwidth_mbps": uplink, "rtt_ms": 30.0, "device_slowdown": slowdown}
                answer = self.recommendation(link=link)
                row.append(f"{answer.cut}, {answer.use.latency_ms:.0f} ms")
            rows.append(tuple(row))
        header = ("uplink", *(f"device {slowdown:g} x slower" for slowdown in SLOWDOWNS))
        return Scenarios(header, tuple(rows))

    def usual_cut(self, split_point: str) -> Cut:
        """The smallest faithful cut at a split point."""
        usual = (cut for cut in self.built.manifest.usual if cut.split_point == split_point)
        return next(usual, Cut(split_point, CODEC))

    def _shots(self, number: int, name: str, photos: Sequence[Photo]) -> list[dict[str, Any]]:
        """One entry of the plan for each view, with the cuts in turn."""
        rng = np.random.default_rng([self.seed, 1 + number])
        deployed = [self.usual_cut(point) for point in self.built.manifest.deployed]
        cuts = [self.built.manifest.usual_photo, *deployed, ON_DEVICE]
        folder = self.scratch / name
        folder.mkdir()
        shots = []
        for index in range(self.views * len(photos)):
            photo = photos[index % len(photos)]
            file = folder / f"{index:04}.png"
            view(photo, rng).save(file, compress_level=1)
            shots.append(
                {
                    "file": str(file),
                    "class_id": photo.class_id,
                    "cut": str(cuts[index % len(cuts)]),
                    "token": self.tokens[index // len(photos)],
                }
            )
        return shots

    def _probe_sentences(self, phase: Phase, cut: Cut, rows: list[dict[str, Any]]) -> list[str]:
        sent = kilobytes(float(np.mean([row["bytes_sent"] for row in rows])))
        device_ms = float(np.median([row["device_ms"] for row in rows]))
        requests_ms = float(np.median([row["requests_ms"] for row in rows]))
        after = self.recommendation(phase.classes)
        first = after.curve[0].split_point
        before_count = _live_count(phase.advice, first)
        after_count = _live_count(after, first)
        return [
            f"{len(rows)} probes at {cut}: {sent} sent for each, and no photo; "
            f"{device_ms:.0f} ms of head forward and backward, {requests_ms:.0f} ms for both "
            "requests.",
            f"Live values at {first}, the first point of the curve: {before_count:.0f} before, "
            f"from photos sent whole; {after_count:.0f} with probes. A camera counts once per hour "
            "and class.",
        ]

    def run_device(
        self,
        role: str,
        shots: Sequence[Mapping[str, Any]],
        more: Mapping[str, Any] = MappingProxyType({}),
    ) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
        """Run a module of this package as a process. Returns its JSON lines and the last of them.

        Parameters:
            role: the name of the module.
            shots: of its plan: files, classes, cuts and tokens.
            more: what else its plan says.

        Raises:
            ServingError: the process failed.
        """
        path = self.scratch / "plan.json"
        plan = {
            "url": self.server.inference_url,
            "model": MODEL,
            "key_file": str(self.server.key_path),
            "head": str(self.built.bundle),
            "shots": list(shots),
        }
        path.write_text(json.dumps(plan | dict(more)))
        command = [sys.executable, "-m", f"isplit_plugin.demo.{role}", str(path)]
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=_DEVICE_TIMEOUT_S, check=False
        )
        lines = [json.loads(line) for line in process.stdout.splitlines()]
        if process.returncode != 0 or not lines:
            raise ServingError(f"the device process failed:\n{process.stderr[-3000:]}")
        return tuple(lines[:-1]), lines[-1]

    def _settle(self) -> None:
        """Wait until the importance of all sampled requests is computed and stored."""
        deadline = time.monotonic() + _SETTLE_TIMEOUT_S
        pending = ("sampler_queued", "sampler_running", "queued", "pending")
        while time.monotonic() < deadline:
            workers = [worker["statistics"] for worker in self.server.describe(MODEL)]
            if all(worker[name] == 0 for worker in workers for name in pending):
                computed = sum(worker["sampler_computed"] for worker in workers)
                dropped = sum(worker["sampler_dropped"] for worker in workers)
                print(
                    f"importance computed in the background for {computed:.0f} requests so far, "
                    f"{dropped:.0f} skipped"
                )
                return
            time.sleep(0.25)


def _live_count(answer: Recommendation, split_point: str) -> float:
    return next(point.live_count for point in answer.curve if point.split_point == split_point)
