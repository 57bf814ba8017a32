"""The demo, step by step: JPEG first, then profile, package, serve, two phases of traffic and what they change."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from .. import image
from ..cli.common import kilobytes, table
from ..cli.recommend import render
from ..cli.serve import curl_hint, keep_tokens
from ..client import HeadBundle, fetch_recommendation
from ..device_tokens import issue, read_secret
from ..errors import ServingError
from ..network import CapturedNetwork, LoadedNetwork, capture, load_network, profile
from ..profile import Profile
from ..schema import INPUT, ON_DEVICE, OUTPUT, Cut, Recommendation
from ..serving.launcher import TorchServe
from ..serving.packaging import Built, package
from .photos import Photo, labelled_photos, view
from .served import by_cut, correct

MODEL: Final = "efficientnet_lite0"
SPEC: Final = "isplit_plugin.network.zoo:efficientnet_lite0"
LINK: Final = {"bandwidth_mbps": 4.0, "rtt_ms": 30.0, "device_slowdown": 16.0}
"""What the phases are advised for: a modest uplink and a small board, sixteen times slower than this machine. Other
links and devices are asked for at the end."""
UPLINKS: Final = (0.5, 1.0, 4.0, 20.0)
SLOWDOWNS: Final = (1.0, 4.0, 16.0)
CALIBRATION_VIEWS: Final = 3
CODECS: Final = ("fp16", "uint8", "uint8+zstd")


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of traffic: what the device answered and what the endpoint said afterwards."""

    name: str
    rows: tuple[dict[str, Any], ...]
    advice: Recommendation
    classes: tuple[int, ...]


class Demo:
    """Everything the demo holds; leaving the context stops the server. ``scratch``: a folder it may fill."""

    def __init__(self, scratch: Path, *, views: int = 14, seed: int = 0) -> None:
        self.scratch = scratch
        self.views = views
        self.seed = seed
        self._stack = ExitStack()
        self.server: TorchServe | None = None
        self.tokens: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def play(self, report: Path) -> Path:
        """The whole demo. Returns the path of the HTML report."""
        from .pages import write

        photos = labelled_photos()
        _step("A network and photos")
        loaded = load_network(SPEC)
        net = capture(loaded.model, loaded.example_input)
        print(
            f"EfficientNet-Lite0 with its ImageNet weights: {len(net.split_points)} split points, network bit-equal"
        )
        print(
            f"{len(photos)} labelled ImageNet photos; other crops and flips of them serve as traffic"
        )
        jpeg = self.price_of_jpeg(photos, loaded)
        measured = self.measure(net, loaded, photos)
        built = self.package(net, loaded, measured)
        self.serve(built)
        before = self.ask()
        _step("The recommendation before any traffic")
        print(render(before, limit=6))
        phases = []
        groups = {
            "animals": [p for p in photos if p.is_animal],
            "things": [p for p in photos if not p.is_animal],
        }
        for number, (name, chosen) in enumerate(groups.items(), start=1):
            phases.append(self.phase(number, name, chosen, built))
        probed = self.probe(len(phases) + 1, phases[-1], built)
        _step("What the traffic changed")
        changed = [*conclusions(before, phases), *probed]
        print(compare(measured, before, phases))
        print("\n".join(changed[: -len(probed)]))
        _step("What to use, by uplink and device")
        header = ("uplink", *(f"device {slowdown:g} x slower" for slowdown in SLOWDOWNS))
        scenarios = self.scenarios()
        print(table(header, scenarios))
        print(
            f"predicted latency, 30 ms round trip; {INPUT} sends the photo, {OUTPUT} stays on the device"
        )
        write(
            report,
            measured,
            jpeg=jpeg,
            before=before,
            phases=phases,
            changed=changed,
            link=LINK,
            scenarios=(header, scenarios),
        )
        return report

    def price_of_jpeg(self, photos: Sequence[Photo], loaded: LoadedNetwork) -> dict[str, float]:
        """Mean bytes of what would be sent without splitting."""
        _step("What sending the photo costs")
        crops = [image.crop(photo.path, loaded.preprocessing) for photo in photos]
        sizes = {"the file as it is": float(np.mean([p.path.stat().st_size for p in photos]))}
        for quality in (90, 75):
            name = f"{crops[0].width} x {crops[0].height} crop, JPEG quality {quality}"
            sizes[name] = float(np.mean([len(image.to_jpeg(crop, quality)) for crop in crops]))
        print(
            table(("photo", "mean size"), ((name, kilobytes(size)) for name, size in sizes.items()))
        )
        return sizes

    def measure(
        self, net: CapturedNetwork, loaded: LoadedNetwork, photos: Sequence[Photo]
    ) -> Profile:
        """The profile, from views of the photos that the traffic does not use."""
        _step("Profile: importance, sizes, times, agreement of codecs")
        rng = np.random.default_rng([self.seed, 1])
        images = [
            (view(photo, rng), photo.class_id) for photo in photos for _ in range(CALIBRATION_VIEWS)
        ]
        # Points whose plain uint8 activation is far above the JPEG cannot win; they are on the curve all the same.
        small = [p.name for p in net.split_points if p.is_block and p.nbytes // 4 <= 32_000]
        result = profile(
            net,
            images,
            preprocessing=loaded.preprocessing,
            classes=loaded.classes,
            model=MODEL,
            split_points=small,
            codecs=CODECS,
            progress=sys.stderr.isatty(),
        )
        right = "" if result.accuracy is None else f", {result.accuracy:.0%} of them right"
        print(
            f"{int(result.count.sum())} views of {len(photos)} photos{right}; {len(result.class_ids)} classes predicted"
        )
        return result

    def package(self, net: CapturedNetwork, loaded: LoadedNetwork, measured: Profile) -> Built:
        """Archive and head bundle, cut at the points whose faithful codec undercuts the JPEG."""
        _step("Package: one archive for TorchServe, one head bundle for the device")
        built = package(
            net,
            profile=measured,
            preprocessing=loaded.preprocessing,
            classes=loaded.classes,
            model=MODEL,
            deployed=_spread(measured),
            # So short a traffic is sampled whole; in production 5 % and 1 % of a core are the ceiling.
            config={
                "isplit": {
                    "sampling": 1.0,
                    "cpu_budget": 0.5,
                    "probes": {"enabled": True, "cpu_budget": 0.5},
                }
            },
            pt2=True,
            out_dir=self.scratch / "model_store",
        )
        print(
            f"deployed split points: {', '.join(built.manifest.deployed)} (besides {INPUT} and {OUTPUT})"
        )
        files = (built.archive, built.bundle, built.endpoint)
        print(table(("file", "MB"), ((p.name, f"{p.stat().st_size / 1e6:.1f}") for p in files)))
        return built

    def serve(self, built: Built) -> None:
        """Start TorchServe with tokens on, and wait until its workers are ready."""
        _step("TorchServe")
        started = time.monotonic()
        self.server = self._stack.enter_context(
            TorchServe(
                model_store=self.scratch / "model_store",
                workdir=self.scratch / "server",
                store=f"sqlite:///{self.scratch / 'store.db'}",
                devices=True,
            )
        )
        # Every look at a photo is another camera's: each counts once in the statistics.
        secret = read_secret(self.server.secret_path)
        self.tokens = [issue(secret, f"camera-{number}", days=1) for number in range(self.views)]
        print(
            f"ready after {time.monotonic() - started:.0f} s at {self.server.inference_url}, tokens on"
        )

    def ask(
        self, classes: Sequence[int] | None = None, link: Mapping[str, float] = LINK
    ) -> Recommendation:
        """The endpoint's answer for the live mix, or for these classes."""
        server = self._server()
        return fetch_recommendation(
            server.inference_url, MODEL, server.token, classes, None, timeout=(5.0, 30.0), **link
        )

    def scenarios(self) -> list[list[str]]:
        """What the endpoint advises the live mix for, by uplink (rows) and speed of the device (columns)."""
        rows = []
        for uplink in UPLINKS:
            row = [f"{uplink:g} Mbit/s"]
            for slowdown in SLOWDOWNS:
                answer = self.ask(
                    link={"bandwidth_mbps": uplink, "rtt_ms": 30.0, "device_slowdown": slowdown}
                )
                row.append(f"{answer.cut}, {answer.use.latency_ms:.0f} ms")
            rows.append(row)
        return rows

    def phase(self, number: int, name: str, photos: Sequence[Photo], built: Built) -> Phase:
        """Send one phase from a device process, wait until the statistics are in, and ask again."""
        _step(f"Phase {number}: the device sees {name}")
        rng = np.random.default_rng([self.seed, 1 + number])
        cuts = [Cut(INPUT, "jpeg")]
        cuts += [Cut(point, "uint8+zstd") for point in built.manifest.deployed]
        cuts += [ON_DEVICE]
        shots = []
        folder = self.scratch / name
        folder.mkdir()
        for index in range(self.views * len(photos)):
            photo = photos[index % len(photos)]
            file = folder / f"{index:04}.png"
            view(photo, rng).save(file, compress_level=1)
            token = self.tokens[index // len(photos)]
            shot = {
                "file": str(file),
                "class_id": photo.class_id,
                "cut": str(cuts[index % len(cuts)]),
            }
            shots.append({**shot, "token": token})
        rows, facts = self._device("device", {"head": str(built.bundle), "shots": shots})
        torch_there = "yes" if facts["torch_loaded"] else "no"
        print(f"{len(rows)} predictions by a device process (torch loaded there: {torch_there})")
        print(served_table(rows))
        hits = correct(rows)
        print(f"correct: {hits} of {len(rows)} ({hits / len(rows):.0%})")
        classes = tuple(sorted({photo.class_id for photo in photos}))
        self._settle()
        advice = self.ask(classes)
        print(f"\nThe recommendation for the classes of this phase\n{render(advice, limit=6)}")
        return Phase(name, rows, advice, classes)

    def keep(self) -> None:
        """Wait for Ctrl-C with the server running."""
        server = self._server()
        print(
            f"\nThe server keeps running. Try:\n{curl_hint(server.inference_url, server.key_path)}"
        )
        print("(MODEL is efficientnet_lite0.) Ctrl-C stops it.", flush=True)
        try:
            while server.pid is not None:
                keep_tokens(server)
                time.sleep(5)
        except KeyboardInterrupt:
            print("\nstopping ...")

    def _server(self) -> TorchServe:
        if self.server is None:
            raise ServingError("the demo's server is not running")
        return self.server

    def probe(self, number: int, phase: Phase, built: Built, *, most: int = 40) -> list[str]:
        """Devices with torch heads complete the curves of a phase's classes; what came of it, in words."""
        _step(f"Phase {number}: probes complete the curves, and no photo is sent")
        # The tail says where: not where it is linear, and a gradient would give its weights away.
        point = self._server().describe(MODEL)[0]["probes"]["split_points"][-1]
        cut = Cut(point, "uint8+zstd")
        known = {row["file"]: row["true_class"] for row in phase.rows}
        files = list(known)[:most]
        photos = len(known) // self.views
        shots = [
            {
                "file": file,
                "cut": str(cut),
                "token": self.tokens[index // photos],
            }
            for index, file in enumerate(files)
        ]
        opened = HeadBundle(built.bundle)
        trust = opened.sha256
        opened.close()
        plan = {"head": str(built.bundle), "trust_pt2": trust, "shots": shots}
        rows, last = self._device("prober", plan)
        found = [*rows, last]
        sent = kilobytes(float(np.mean([r["bytes_sent"] for r in found])))
        device_ms, requests_ms = (
            float(np.median([r[k] for r in found])) for k in ("device_ms", "requests_ms")
        )
        after = self.ask(phase.classes)
        first = after.curve[0].split_point
        counts = [
            next(p.live_count for p in a.curve if p.split_point == first)
            for a in (phase.advice, after)
        ]
        told = [
            f"{len(found)} probes, at {cut}: {sent} sent for each, no photo among them; "
            f"{device_ms:.0f} ms of head forward and backward, {requests_ms:.0f} ms for both requests.",
            f"Live values at {first}, the first point of the curve: {counts[0]:.0f} before, from photos sent whole; "
            f"{counts[1]:.0f} with probes. A camera counts once an hour for each class.",
        ]
        print("\n".join(told))
        return told

    def _device(
        self, role: str, plan: dict[str, Any]
    ) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
        server = self._server()
        path = self.scratch / "plan.json"
        where = {"url": server.inference_url, "model": MODEL, "key_file": str(server.key_path)}
        path.write_text(json.dumps(where | plan))
        command = [sys.executable, "-m", f"isplit_plugin.demo.{role}", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode != 0 or not lines:
            raise ServingError(f"the device process failed:\n{done.stderr[-3000:]}")
        return tuple(lines[:-1]), lines[-1]

    def _settle(self, patience: float = 60.0) -> None:
        """Wait until the tail has computed the importance of what it sampled, and all of it is in the store."""
        server = self._server()
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            counts = [worker["statistics"] for worker in server.describe(MODEL)]
            waiting = ("sampler_queued", "sampler_running", "queued", "pending")
            if all(c[name] == 0 for c in counts for name in waiting):
                computed, dropped = (
                    sum(c[f"sampler_{n}"] for c in counts) for n in ("computed", "dropped")
                )
                print(
                    f"importance computed in the background for {computed:.0f} requests so far, {dropped:.0f} skipped"
                )
                return
            time.sleep(0.25)


def _spread(measured: Profile, most: int = 3) -> list[str]:
    """At most ``most`` split points whose uint8+zstd activation undercuts the JPEG: the first, the last, the middle."""
    jpeg = measured.measurement(Cut(INPUT, "jpeg"))
    limit = jpeg.nbytes if jpeg else float("inf")
    below = [
        m.split_point for m in measured.measurements if m.codec == "uint8+zstd" and m.nbytes < limit
    ]
    below = [p.name for p in measured.split_points if p.name in below]
    if len(below) <= most:
        return below or [p.name for p in measured.split_points[-most:]]
    return [below[round(i * (len(below) - 1) / (most - 1))] for i in range(most)]


def served_table(rows: Sequence[dict[str, Any]]) -> str:
    """Bytes, times and correct answers by cut."""
    found = [
        (
            served.cut,
            kilobytes(served.bytes_sent),
            *(
                f"{ms:.1f}"
                for ms in (served.head_ms, served.encode_ms, served.round_trip_ms, served.tail_ms)
            ),
            f"{served.correct}/{served.photos}",
        )
        for served in by_cut(rows)
    ]
    header = (
        "cut",
        "sent",
        "head ms",
        "encode ms",
        "round trip ms",
        "tail ms",
        "correct",
    )
    return table(header, found)


def compare(measured: Profile, before: Recommendation, phases: Sequence[Phase]) -> str:
    """The curves side by side."""
    blocks = [p.name for p in measured.split_points if p.is_block]
    columns = [("profile", before), *((phase.name, phase.advice) for phase in phases)]
    rows = []
    for name in blocks:
        cells: list[object] = [name]
        for _, advice in columns:
            point = next(p for p in advice.curve if p.split_point == name)
            mark = " *" if name == advice.best_candidate else ""
            cells.append(f"{point.cui:.2e} ({point.live_count:.0f}){mark}")
        rows.append(cells)
    note = "CUI by class mix (live observations in brackets; * the rule's best place for a bottleneck)\n"
    return note + table(("split point", *(name for name, _ in columns)), rows)


def conclusions(before: Recommendation, phases: Sequence[Phase]) -> list[str]:
    """In words, whether the recommendation moved. It says so too where it did not."""
    columns = [("before, all calibrated classes", before)]
    columns += [(f"the classes of {phase.name}", phase.advice) for phase in phases]
    sentences = []
    for what, attribute in (
        ("cut to use", "cut"),
        ("best place for a bottleneck", "best_candidate"),
    ):
        values = [getattr(advice, attribute) for _, advice in columns]
        if len(set(values)) == 1:
            sentences.append(
                f"The {what} is {values[0]}, before the traffic and for the classes of every phase."
            )
        else:
            places = (f"{name}: {value}" for (name, _), value in zip(columns, values, strict=True))
            sentences.append(f"The {what} depends on classes and traffic: {'; '.join(places)}.")
    return sentences


def _step(title: str) -> None:
    print(f"\n== {title}", flush=True)
