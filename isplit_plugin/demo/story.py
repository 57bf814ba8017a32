"""The demo in its order: photo sizes, profile, package, server, traffic, probes, exits, simulation."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from ..advice import winner_grid
from ..errors import IsplitError
from ..exits import new_keys
from ..network import CapturedNetwork, FittedTransforms, LoadedNetwork
from ..profile import Profile
from ..report import bytes_curve_text, winner_text
from ..schema import INPUT, OUTPUT
from ..serving.launcher import TorchServe, curl_requests
from ..serving.packaging import Built
from ..terminal import kilobytes, recommendation_text, table
from .exits import answer_on_devices, server_settings
from .pages import write
from .phase import Phase
from .photos import Photo, labelled_photos
from .preparation import (
    CALIBRATION_VIEWS,
    MODEL,
    captured_network,
    measured_profile,
    packaged_model,
    photo_sizes,
)
from .swinging_link import on_a_swinging_link
from .text import best_photo_text, conclusions, curve_table, phase_text
from .traffic import LINK, Traffic


class Demo:
    """One run of the demo. Leaving the context stops the server.

    Parameters:
        scratch: a folder that the demo may fill.
        views: how often a phase shows each photo.
        calibration_views: views on which the network is profiled.
        seed: for crops and flips.
    """

    def __init__(
        self,
        scratch: Path,
        *,
        views: int = 14,
        calibration_views: int = CALIBRATION_VIEWS,
        seed: int = 0,
    ) -> None:
        self.calibration_views = calibration_views
        self.scratch = scratch
        self.views = views
        self.seed = seed
        self.server: TorchServe | None = None
        self._public_key = scratch
        self._stack = ExitStack()

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
        """Run every step and write the HTML report. Returns its path."""
        photos = labelled_photos()
        _step("A network and photos")
        loaded, net = captured_network()
        print(
            f"EfficientNet-Lite0 with its ImageNet weights: {len(net.split_points)} split points, "
            "captured bit for bit\n"
            f"{len(photos)} labelled ImageNet photos; their crops and flips are the traffic"
        )
        sizes = _print_sizes(photos, loaded)
        measured, transforms = self._measure(net, loaded, photos)
        built = self._package(net, loaded, measured, transforms)
        traffic = Traffic(self._serve(), built, self.scratch, views=self.views, seed=self.seed)

        _step("The recommendation before any traffic")
        before = traffic.recommendation()
        print(recommendation_text(before, limit=6))
        phases = _play_phases(traffic, photos)
        _step(f"Phase {len(phases) + 1}: probes complete the curves, and no photo is sent")
        probe_sentences = traffic.probe(phases[-1])
        print("\n".join(probe_sentences))

        _step(f"Phase {len(phases) + 2}: devices answer by themselves")
        animals = [photo for photo in photos if photo.is_animal]
        answered = answer_on_devices(traffic, phases[0], animals, exit_key=self._public_key)
        print(answered.text())

        _step("What the traffic changed")
        sentences = conclusions(before, phases)
        print("\n".join([curve_table(measured, before, phases), *sentences]))
        _step("What to use, by uplink and device")
        scenarios = traffic.scenarios()
        print(
            f"{table(scenarios.header, scenarios.rows)}\n"
            f"predicted latency, 30 ms round trip; {INPUT} sends the photo, {OUTPUT} sends nothing"
        )
        _step("One device on a link that swings")
        swinging = on_a_swinging_link(
            measured, built.manifest, slowdown=LINK["device_slowdown"], seed=self.seed
        )
        print(swinging.text())
        return write(
            report,
            measured,
            sizes=sizes,
            before=before,
            phases=phases,
            sentences=[*sentences, *probe_sentences],
            link=LINK,
            scenarios=scenarios,
            exits=answered,
            swinging=swinging,
        )

    def keep(self) -> None:
        """Wait for Ctrl-C with the server running."""
        if self.server is None:
            return
        commands = "\n".join(curl_requests(self.server.inference_url, self.server.key_path))
        print(f"\nThe server keeps running. Try:\n{commands}")
        print(f"(MODEL is {MODEL}.) Ctrl-C stops it.", flush=True)
        try:
            while self.server.pid is not None:
                _keep_tokens(self.server)
                time.sleep(5)
        except KeyboardInterrupt:
            print("\nstopping ...")

    def _measure(
        self, net: CapturedNetwork, loaded: LoadedNetwork, photos: Sequence[Photo]
    ) -> tuple[Profile, FittedTransforms]:
        _step("Profile: importance, sizes, times, agreement of codecs")
        measured, transforms = measured_profile(
            net, loaded, photos, count=self.calibration_views, seed=self.seed
        )
        accuracy = measured.accuracy
        correct = "" if accuracy is None else f", {accuracy:.0%} of them classified correctly"
        print(
            f"{int(measured.count.sum())} views of {len(photos)} photos{correct}; "
            f"{len(measured.class_ids)} classes predicted\n{best_photo_text(measured)}"
        )
        print(f"fewest bytes for each agreement\n{bytes_curve_text(measured)}")
        print(winner_text(winner_grid(measured)))
        return measured, transforms

    def _package(
        self,
        net: CapturedNetwork,
        loaded: LoadedNetwork,
        measured: Profile,
        transforms: FittedTransforms,
    ) -> Built:
        _step("Package: one archive for TorchServe, one head bundle for the device")
        built = packaged_model(net, loaded, measured, transforms, self.scratch / "model_store")
        files = (built.archive, built.bundle, built.endpoint)
        deployed = ", ".join(built.manifest.deployed)
        print(f"deployed split points: {deployed} (besides {INPUT} and {OUTPUT})")
        print(table(("file", "MB"), ((p.name, f"{p.stat().st_size / 1e6:.1f}") for p in files)))
        return built

    def _serve(self) -> TorchServe:
        """Start TorchServe with tokens, and wait until its workers are ready."""
        _step("TorchServe")
        started = time.monotonic()
        private, self._public_key = new_keys(self.scratch / "exit.key")
        server = TorchServe(
            model_store=self.scratch / "model_store",
            workdir=self.scratch / "server",
            store=f"sqlite:///{self.scratch / 'store.db'}",
            devices=True,
            worker_settings=server_settings(private),
        )
        self.server = self._stack.enter_context(server)
        seconds = time.monotonic() - started
        print(f"ready after {seconds:.0f} s at {server.inference_url}, which requires tokens")
        return server


def _print_sizes(photos: Sequence[Photo], loaded: LoadedNetwork) -> dict[str, float]:
    _step("What sending the photo costs")
    sizes = photo_sizes(photos, loaded)
    print(table(("photo", "mean size"), ((name, kilobytes(size)) for name, size in sizes.items())))
    return sizes


def _play_phases(traffic: Traffic, photos: Sequence[Photo]) -> list[Phase]:
    groups = {
        "animals": [photo for photo in photos if photo.is_animal],
        "things": [photo for photo in photos if not photo.is_animal],
    }
    phases = []
    for number, (name, group) in enumerate(groups.items(), start=1):
        _step(f"Phase {number}: the device sees {name}")
        phase = traffic.phase(number, name, group)
        print(phase_text(phase))
        print("\nThe recommendation for the classes of this phase")
        print(recommendation_text(phase.advice, limit=6))
        phases.append(phase)
    return phases


def _keep_tokens(server: TorchServe) -> None:
    """Renew tokens and print errors: the next turn tries again, or sees that the server ended."""
    try:
        server.keep_tokens()
    except IsplitError as error:
        print(f"isplit demo: {error.message}", file=sys.stderr)


def _step(title: str) -> None:
    print(f"\n== {title}", flush=True)
