"""The adaptive client in front of the real server: the link drops, the server stalls, no photo is
lost.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

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

LOCAL_MS = 1000.0
FAST = ConstantUplink(20.0)
SLOW = ConstantUplink(0.004)
"""A body of a few hundred bytes takes a second or more."""


@pytest.fixture
def proxy(live: Live) -> Iterator[SlowProxy]:
    with SlowProxy(live.server.inference_url, FAST, rtt_ms=10) as running:
        yield running


@pytest.fixture
def device(live: Live, proxy: SlowProxy) -> Iterator[AdaptiveClient]:
    """A device that needs a second for the whole network and little for a head."""
    heads = SplitClient(proxy.url, model="toy", head=live.toy.built.bundle, threads=1)
    assert heads.runtime is not None
    client = SplitClient(
        proxy.url,
        model="toy",
        head=live.toy.built.bundle,
        token=live.server.token,
        runtime=SlowRuntime(heads.runtime, LOCAL_MS),
        timeout=20.0,
    )
    with heads, AdaptiveClient(client) as adaptive:
        assert adaptive.wait_for_advice() is not None
        yield adaptive


def test_the_link_drops_and_comes_back(
    live: Live, proxy: SlowProxy, device: AdaptiveClient
) -> None:
    [photo] = toy_photos(1, seed=41)
    x = torch.from_numpy(image.preprocess(photo, live.toy.manifest.preprocessing)[None])
    expected = int(whole(live.toy.net, x).argmax())

    def is_remote() -> bool:
        prediction = device.predict(photo)
        assert prediction.class_id == expected
        return prediction.cut != ON_DEVICE

    until(is_remote)
    proxy.uplink = SLOW
    remote = [is_remote() for _ in range(5)]
    # Two photos may still set out for the server; then the device knows.
    assert remote[2:] == [False, False, False]
    assert device.explain().link.observations > 0
    proxy.uplink = FAST
    until(is_remote)


def test_no_deadline_is_missed_while_the_server_stalls(live: Live, device: AdaptiveClient) -> None:
    """The whole of TorchServe stands still for 10 s, as a machine without memory or network does.

    Nothing ends a connection then, so that only the deadline helps.
    """
    [photo] = toy_photos(1, seed=42)
    until(lambda: device.predict(photo).cut != ON_DEVICE)
    pid = live.server.pid
    assert pid is not None
    latencies = []
    os.killpg(pid, signal.SIGSTOP)
    try:
        ends_at = time.monotonic() + 10
        while time.monotonic() < ends_at:
            started = time.monotonic()
            prediction = device.predict(photo, deadline_ms=2 * LOCAL_MS)
            latencies.append((time.monotonic() - started) * 1e3)
            assert prediction.cut == ON_DEVICE
    finally:
        os.killpg(pid, signal.SIGCONT)
    assert len(latencies) >= 5
    assert max(latencies) < 2 * LOCAL_MS
    until(lambda: device.predict(photo).cut != ON_DEVICE)
