"""The simulator against reality: the same photos on the same link, simulated and run.

A real client classifies photos through a proxy that replays a trace in front of a real TorchServe
with EfficientNet-Lite0. A pause behind every head makes the device slower. What the device and the
server need for each cut is measured on a fast link before every round of runs, since it changes with
whatever else a machine does; the simulator is told these times, the trace and the arrivals. It
predicts what they amount to: waiting, the link, and the adaptive client's decisions.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from isplit_plugin.adaptive import Option
from isplit_plugin.client import (
    AdaptiveClient,
    FrameStream,
    HeadRuntime,
    SplitClient,
    current_stop,
)
from isplit_plugin.demo.photos import labelled_photos
from isplit_plugin.image import Image
from isplit_plugin.network import capture, fit_transforms, load_network, profile
from isplit_plugin.schema import ON_DEVICE, Cut, FloatArray, Prediction, RatedCut
from isplit_plugin.serving.launcher import TorchServe
from isplit_plugin.serving.packaging import Built, package
from isplit_plugin.simulation import (
    ADAPTIVE,
    ConstantUplink,
    Fixed,
    PolicyFactory,
    Scenario,
    SlowProxy,
    TraceUplink,
    Uplink,
    adaptive_policy,
    arrivals_ms,
    simulate,
    swinging_trace,
)

from .adaptive import VARIABLE
from .harness import Row, row

Advice = Mapping[Cut, RatedCut]
SPEC: Final = "isplit_plugin.network.zoo:efficientnet_lite0"
MODEL: Final = "replay"
POINT: Final = "_blocks.5"
CUTS: Final = ("input:jpeg@90", "input:webp@75", f"{POINT}:dct@2", f"{POINT}:dct@4", "output:none")
"""Few cuts, so that measuring them is short."""
SLOWDOWN: Final = 8.0
RTT_MS: Final = 40.0
RATE: Final = 2.0
"""Photos a second."""
STREAM_MBPS: Final = (1.0, 8.0)
"""The links of the streams."""
FAST: Final = ConstantUplink(10_000.0)
SIMULATIONS: Final = 20
"""Simulations of each run, with other noise; their median is the prediction."""
SAMPLED: Final = 4
"""Photos of each cut before every round."""
_FIRST_RUNS: Final = 3


class SlowDevice:
    """The heads of a runtime, each followed by a pause: a device that is slower.

    The pause is that many times the median of the first runs, so that what disturbs one run is not
    multiplied.
    """

    def __init__(self, runtime: HeadRuntime, slowdown: float) -> None:
        self._runtime = runtime
        self._slowdown = slowdown
        self._usual_s: dict[str, list[float]] = {}

    def has(self, split_point: str) -> bool:
        """See :class:`HeadRuntime`."""
        return self._runtime.has(split_point)

    def load(self, split_point: str) -> None:
        """Load a head at its first use."""
        load = getattr(self._runtime, "load", None)
        if load is not None:
            load(split_point)

    def run(self, split_point: str, x: FloatArray) -> FloatArray:
        """Run a head, then pause."""
        started = time.perf_counter()
        activation = self._runtime.run(split_point, x)
        usual_s = self._usual_s.setdefault(split_point, [])
        if len(usual_s) < _FIRST_RUNS:
            usual_s.append(time.perf_counter() - started)
        _pause((self._slowdown - 1) * statistics.median(usual_s))
        return activation


@dataclass
class Samples:
    """What each cut took on a fast link: milliseconds and bytes."""

    own_ms: dict[Cut, list[float]] = field(default_factory=dict)
    server_ms: dict[Cut, list[float]] = field(default_factory=dict)
    nbytes: dict[Cut, list[float]] = field(default_factory=dict)
    rest_ms: list[float] = field(default_factory=list)

    def scenario(self, uplink: Uplink, photos: int, advice: Advice) -> Scenario:
        """The scenario with what is known now. Its arrivals do not depend on the samples.

        Its adaptive client gets the advice that the real one gets.
        """
        options = tuple(
            Option(
                cut=cut,
                nbytes=statistics.mean(self.nbytes[cut]),
                device_ms=statistics.median(self.own_ms[cut]),
                server_ms=statistics.median(self.server_ms[cut]),
                agreement=1.0,
            )
            for cut in self.own_ms
        )
        return Scenario(
            options,
            uplink,
            # What the server needs beside decoding and tail lies in the round trip, too.
            rtt_ms=RTT_MS + statistics.median(self.rest_ms),
            rate=RATE,
            photos=photos,
            cores=4,  # the pauses of two heads at once do not slow each other down
            noise=_spread(self.own_ms.values()),
            server_noise=_spread(self.server_ms.values()),
            byte_noise=_spread(self.nbytes.values()),
            advised=tuple(
                replace(
                    option,
                    nbytes=advice[option.cut].nbytes,
                    device_ms=advice[option.cut].device_ms,
                    server_ms=advice[option.cut].server_ms,
                )
                for option in options
            ),
        )

    def rows(self, where: str) -> list[Row]:
        """The medians, which the simulator is told."""
        return [
            row(
                f"{where}, {cut} on a fast link: own time",
                statistics.median(times),
                "ms",
                server_ms=statistics.median(self.server_ms[cut]),
                rest_ms=statistics.median(self.rest_ms),
                nbytes=statistics.mean(self.nbytes[cut]),
                spread=_spread([times]),
            )
            for cut, times in self.own_ms.items()
        ]


@dataclass(frozen=True)
class Bench:
    """A slow device, and the proxy between it and a running server."""

    proxy: SlowProxy
    client: SplitClient
    connect: Callable[[], SplitClient]
    photos: Sequence[Path]

    def sample(self, samples: Samples, cuts: Sequence[Cut]) -> None:
        """Take photos at each cut, on a link that costs next to nothing."""
        self.proxy.rtt_ms = 0.0
        self.proxy.restart(FAST)
        for photo in self.photos[:SAMPLED]:
            for cut in cuts:
                before = self.proxy.sent_bytes
                times = self.client.predict(photo, cut).timings
                own_ms = times.prepare_ms + times.head_ms + times.encode_ms
                server_ms = times.decode_ms + times.tail_ms
                samples.own_ms.setdefault(cut, []).append(own_ms)
                samples.server_ms.setdefault(cut, []).append(server_ms)
                samples.nbytes.setdefault(cut, []).append(self.proxy.sent_bytes - before)
                if cut != ON_DEVICE:
                    samples.rest_ms.append(times.round_trip_ms - server_ms)

    def run(
        self, predict: Callable[[Path], object], arrivals: Sequence[float], uplink: Uplink
    ) -> list[float]:
        """Latencies of photos that arrive at these times, one after the other, in ms."""
        self.proxy.rtt_ms = RTT_MS
        self.proxy.restart(uplink)
        started = time.monotonic()
        latencies = []
        for number, arrived_ms in enumerate(arrivals):
            at_s = started + arrived_ms / 1e3
            time.sleep(max(0.0, at_s - time.monotonic()))
            predict(self.photos[number % len(self.photos)])
            latencies.append((time.monotonic() - at_s) * 1e3)
        return latencies

    def run_adaptive(self, arrivals: Sequence[float], uplink: Uplink) -> list[float]:
        """The same with a new adaptive client, whose heads are loaded already."""
        self.proxy.restart(FAST)
        with AdaptiveClient(self.connect(), refresh_s=3600.0) as client:
            assert client.wait_for_advice() is not None
            return self.run(client.predict, arrivals, uplink)


def run(quick: bool = False) -> list[Row]:
    """Rows of p50 and p95, measured, with the ratio to the simulated one; frames of a stream."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        started = time.monotonic()
        built = build(folder)
        print(f"built in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        server = TorchServe(
            model_store=built.archive.parent,
            store=f"sqlite:///{folder / 'store.db'}",
            workdir=folder / "server",
        )
        with server:
            return replay(
                server,
                built,
                photos=8 if quick else 24,
                rounds=1 if quick else 3,
                uplinks=_uplinks()[: 1 if quick else None],
            )


def replay(
    server: TorchServe, built: Built, *, photos: int, rounds: int, uplinks: Sequence[Uplink]
) -> list[Row]:
    """Every policy on every link, run several times in turn and then simulated."""
    rows: list[Row] = []
    with SlowProxy(server.inference_url, FAST) as proxy:
        connect = _device(server, built, proxy)
        with connect() as client:
            bench = Bench(proxy, client, connect, [p.path for p in labelled_photos()[:6]])
            advice = {row.cut: row for row in client.recommendation().cuts}
            cuts = [cut for cut in advice if str(cut) in CUTS and client.can_take(cut)]
            for cut in cuts:
                for _ in range(_FIRST_RUNS):
                    client.predict(bench.photos[0], cut)
            for mbps in STREAM_MBPS:
                rows += _streams(bench, mbps, photos // 2)
            for number, uplink in enumerate(uplinks):
                # What the device does alone is the same on every link.
                policies = {
                    name: cut
                    for name, cut in _policies(cuts).items()
                    if number == 0 or cut != ON_DEVICE
                }
                rows += _on_link(
                    bench, cuts, policies, advice, uplink, photos=photos, rounds=rounds
                )
    return rows


def _on_link(
    bench: Bench,
    cuts: Sequence[Cut],
    policies: Mapping[str, Cut | None],
    advice: Advice,
    uplink: Uplink,
    *,
    photos: int,
    rounds: int,
) -> list[Row]:
    samples = Samples()
    measured: dict[str, list[list[float]]] = {}
    for number in range(rounds):
        bench.sample(samples, cuts)
        scenario = samples.scenario(uplink, photos, advice)
        arrivals = arrivals_ms(scenario)
        for name, cut in policies.items():
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            latencies = (
                bench.run_adaptive(arrivals, uplink)
                if cut is None
                else bench.run(partial(bench.client.predict, cut=cut), arrivals, uplink)
            )
            measured.setdefault(name, []).append(latencies)
    bench.sample(samples, cuts)
    scenario = samples.scenario(uplink, photos, advice)
    rows = samples.rows(uplink.describe())
    for name, cut in policies.items():
        simulated = [_simulated(scenario, cut, repeat) for repeat in range(SIMULATIONS)]
        rows += _rows(f"{uplink.describe()}, {name}", measured[name], simulated)
    return rows


def _rows(where: str, measured: list[list[float]], simulated: list[list[float]]) -> list[Row]:
    rows = []
    for share in (0.5, 0.95):
        of_runs = [float(np.quantile(latencies, share)) for latencies in measured]
        expected = [float(np.quantile(latencies, share)) for latencies in simulated]
        value, rival = statistics.median(of_runs), statistics.median(expected)
        rows.append(
            row(
                f"{where}: p{100 * share:.0f}",
                value,
                "ms",
                rival="simulated",
                rival_value=rival,
                ratio=value / rival,
                runs=of_runs,
                simulations=[min(expected), max(expected)],
                expected="0.85 to 1.15",
            )
        )
    return rows


def _streams(bench: Bench, mbps: float, photos: int) -> list[Row]:
    """Frames a second one after the other and as a stream with two in flight."""
    frames = [bench.photos[number % len(bench.photos)] for number in range(photos)]
    bench.proxy.rtt_ms = RTT_MS
    bench.proxy.restart(ConstantUplink(mbps))
    rows = [
        _stream(f"at {POINT}, {mbps:g} Mbit/s", partial(bench.client.predict, cut=POINT), frames)
    ]
    with AdaptiveClient(bench.connect(), refresh_s=3600.0) as client:
        assert client.wait_for_advice(60.0) is not None
        for frame in frames:  # until it knows the link
            client.predict(frame)
        rows.append(_stream(f"adaptive, {mbps:g} Mbit/s", client.predict, frames))
    return rows


def _stream(where: str, predict: Callable[[Image], Prediction], frames: Sequence[Path]) -> Row:
    started = time.perf_counter()
    for frame in frames:
        predict(frame)
    plain = len(frames) / (time.perf_counter() - started)
    with FrameStream(predict, frames, max_in_flight=2, drop="none") as stream:
        assert all(frame.error is None for frame in stream)
        rate = stream.rate
    return row(
        f"frames a second of a stream, {where}",
        rate,
        "frames/s",
        rival="plain loop",
        rival_value=plain,
        ratio=rate / plain,
    )


def _pause(seconds: float) -> None:
    """Sleep. Raises RuntimeError where nobody waits for the head any more."""
    stop, ended = current_stop(), threading.Event()
    if stop is None:
        time.sleep(seconds)
        return
    with stop.ending(ended.set):
        if ended.wait(seconds):
            raise RuntimeError("the head was ended")


def _policies(cuts: Sequence[Cut]) -> dict[str, Cut | None]:
    """The smallest photo, the smallest split, the device alone, and the adaptive client.

    The cut of the last one is ``None``.
    """
    photo = min((cut for cut in cuts if cut.is_photo), key=_quality)
    split = min((cut for cut in cuts if cut.split_point == POINT), key=_quality)
    return {str(photo): photo, str(split): split, str(ON_DEVICE): ON_DEVICE, ADAPTIVE: None}


def _simulated(scenario: Scenario, cut: Cut | None, repeat: int) -> list[float]:
    """Latencies of one simulation; the adaptive client's where there is no cut."""
    policy = _fixed(cut) if cut is not None else adaptive_policy(scenario, repeat=repeat)
    return [photo.latency_ms for photo in simulate(scenario, policy, repeat=repeat).photos]


def _fixed(cut: Cut) -> PolicyFactory:
    return lambda _device: Fixed(cut)


def _quality(cut: Cut) -> float:
    return math.inf if cut.quality is None else cut.quality


def _device(server: TorchServe, built: Built, proxy: SlowProxy) -> Callable[[], SplitClient]:
    """Makes clients behind the proxy that share one slow device."""
    plain = SplitClient(server.inference_url, model=MODEL, head=built.bundle, threads=1)
    assert plain.runtime is not None
    runtime = SlowDevice(plain.runtime, SLOWDOWN)
    return lambda: SplitClient(
        proxy.url,
        model=MODEL,
        head=built.bundle,
        token=server.token,
        runtime=runtime,
        raw_scores=False,
        timeout=60.0,
    )


def build(folder: Path) -> Built:
    """EfficientNet-Lite0 at one split point, with few photos and few codecs."""
    loaded = load_network(SPEC)
    net = capture(loaded.model, loaded.example_input)
    images = [(photo.path, photo.class_id) for photo in labelled_photos()]
    transforms = fit_transforms(
        net, images, preprocessing=loaded.preprocessing, split_points=[POINT], threads=1
    )
    measured = profile(
        net,
        images,
        preprocessing=loaded.preprocessing,
        classes=loaded.classes,
        model=MODEL,
        split_points=[POINT],
        codecs=("dct",),
        photos=("jpeg@90", "webp@75"),
        transforms=transforms,
        threads=1,
    )
    few = tuple(m for m in measured.measurements if str(m.cut) in CUTS)
    return package(
        net,
        profile=replace(measured, measurements=few),
        preprocessing=loaded.preprocessing,
        classes=loaded.classes,
        model=MODEL,
        deployed=[POINT],
        transforms=tuple(transforms.transforms.values()),
        config={"isplit": {"sampling": 0.0}},
        out_dir=folder / "model_store",
    )


def _uplinks() -> list[Uplink]:
    folder = os.environ.get(VARIABLE)
    if folder is not None:
        return [TraceUplink.load(path) for path in sorted(Path(folder).glob("*.up"))]
    return [swinging_trace(1, mean_mbps=1.0), swinging_trace(2, mean_mbps=4.0)]


def _spread(of_cuts: Iterable[Sequence[float]]) -> float:
    """The median over the cuts of the standard deviation of the logarithm."""
    spreads = [
        float(np.std(np.log(values)))
        for values in of_cuts
        if statistics.median(values) > 5  # shorter times do not matter, however they vary
    ]
    return statistics.median(spreads) if spreads else 0.0
