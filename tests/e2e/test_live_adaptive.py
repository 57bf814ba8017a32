"""The adaptive client in front of the real server: the link drops, the server stalls, no photo is
lost.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import torch
from toys.client import SlowRuntime
from toys.live_server import Live
from toys.polling import until
from toys.serving import toy_photos, whole

from isplit_plugin import image
from isplit_plugin.client import AdaptiveClient, SplitClient
from isplit_plugin.schema import ON_DEVICE
from isplit_plugin.simulation import ConstantUplink, SlowProxy

FAST = ConstantUplink(20.0)
SLOW = ConstantUplink(0.001)
"""A body of a few hundred bytes takes some seconds."""


@pytest.fixture
def proxy(live: Live) -> Iterator[SlowProxy]:
    with SlowProxy(live.server.inference_url, FAST, rtt_ms=10) as running:
        yield running


@pytest.fixture
def adapt(live: Live, proxy: SlowProxy) -> Iterator[Callable[[float], AdaptiveClient]]:
    """Makes devices that need so many ms for the whole network, and little for a head."""
    with ExitStack() as stack:

        def make(local_ms: float) -> AdaptiveClient:
            bundle = live.toy.built.bundle
            heads = stack.enter_context(SplitClient(proxy.url, model="toy", head=bundle, threads=1))
            assert heads.runtime is not None
            client = SplitClient(
                proxy.url,
                model="toy",
                head=bundle,
                token=live.server.token,
                runtime=SlowRuntime(heads.runtime, local_ms),
                timeout=20.0,
            )
            adaptive = stack.enter_context(AdaptiveClient(client, seed=0))
            assert adaptive.wait_for_advice(60.0) is not None
            return adaptive

        yield make


def test_the_link_drops_and_comes_back(
    live: Live, proxy: SlowProxy, adapt: Callable[[float], AdaptiveClient]
) -> None:
    device = adapt(400.0)
    [photo] = toy_photos(1, seed=41)
    x = torch.from_numpy(image.preprocess(photo, live.toy.manifest.preprocessing)[None])
    expected = int(whole(live.toy.net, x).argmax())

    def is_remote() -> bool:
        prediction = device.predict(photo)
        assert prediction.class_id == expected
        return prediction.cut != ON_DEVICE

    until(lambda: all(is_remote() for _ in range(4)))
    proxy.uplink = SLOW
    remote = [is_remote() for _ in range(5)]
    # Two photos may still set out for the server; then the device knows.
    assert remote[2:] == [False, False, False]
    assert device.explain().link.observations > 0
    proxy.uplink = FAST
    until(is_remote)


def test_no_deadline_of_twice_the_local_time_is_missed_while_the_server_stalls(
    live: Live, adapt: Callable[[float], AdaptiveClient]
) -> None:
    """The whole of TorchServe stands still for 10 s, as a machine without memory or network does.

    Nothing ends a connection then, so that only the deadline helps. Where this machine is busy, a
    thread may wake up late once: not in each of five rounds.
    """
    local_ms = 1000.0
    device = adapt(local_ms)
    [photo] = toy_photos(1, seed=42)
    pid = live.server.pid
    assert pid is not None

    def none_is_missed() -> bool:
        until(lambda: device.predict(photo).cut != ON_DEVICE)
        latencies = []
        os.killpg(pid, signal.SIGSTOP)
        try:
            for _ in range(9):
                started = time.monotonic()
                prediction = device.predict(photo, deadline_ms=2 * local_ms)
                latencies.append((time.monotonic() - started) * 1e3)
                assert prediction.cut == ON_DEVICE
        finally:
            os.killpg(pid, signal.SIGCONT)
        return max(latencies) < 2 * local_ms

    assert any(none_is_missed() for _ in range(5))
    until(lambda: device.predict(photo).cut != ON_DEVICE)
