"""The adaptive client behind a slowed-down link: it follows the link, and no photo is lost."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from toys.client import (
    BUSY,
    Handler,
    Server,
    SlowRuntime,
    bundle_files,
    hang,
    photo,
    recommendation,
    reset,
    torchserve_error,
    write_zip,
)
from toys.polling import until

from isplit_plugin.client import AdaptiveClient, HeadRuntime, SplitClient, current_stop
from isplit_plugin.errors import ImageError, QueryError, ServerUnavailableError
from isplit_plugin.schema import Cut, RatedCut, Recommendation
from isplit_plugin.simulation import ConstantUplink, SlowProxy

LOCAL = Cut("output", "none")
POOL = Cut("pool", "fp32")
DOUBLE = Cut("double", "fp32")
REMOTE = {POOL, DOUBLE}  # about as fast as each other here
BLUE = photo(0, 0, 255)


def noise(side: int) -> bytes:
    """A PNG file of random pixels: 300 bytes at 8 x 8, 12 KB at 64 x 64."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def advice_of(local_ms: float = 60.0, **verdicts: str) -> Recommendation:
    """Small at `pool`, larger at `double`, and `output` at ``local_ms``."""
    rows = [
        rated(POOL, 700, 0.5, 2.0, verdicts.get("pool", "picked")),
        rated(DOUBLE, 900, 0.5, 2.0, verdicts.get("double", "slower")),
        rated(LOCAL, 0, local_ms, 0.0, verdicts.get("local", "slower")),
    ]
    return recommendation(POOL, use=rows[0], cuts=tuple(rows))


def rated(cut: Cut, nbytes: float, device_ms: float, server_ms: float, verdict: str) -> RatedCut:
    usual = recommendation(cut).use
    return replace(
        usual,
        cut=cut,
        nbytes=nbytes,
        device_ms=device_ms,
        server_ms=server_ms,
        verdict=verdict,
        reason=f"it is {verdict}",
    )


@pytest.fixture
def adapt(
    server: Server, connect: Callable[..., SplitClient]
) -> Iterator[Callable[..., AdaptiveClient]]:
    """Makes adaptive clients whose device takes ``local_ms`` for the whole network."""
    made: list[AdaptiveClient] = []
    runtimes: list[SlowRuntime] = []

    def make(
        *, local_ms: float = 60.0, url: str | None = None, advised: bool = True, **options: Any
    ) -> AdaptiveClient:
        server.state.advice = options.pop("advice", advice_of(local_ms))
        plain = connect()
        assert plain.runtime is not None
        runtime = SlowRuntime(plain.runtime, local_ms)
        runtimes.append(runtime)
        client = connect(url=url or server.url, runtime=runtime, timeout=60.0)
        made.append(AdaptiveClient(client, **{"seed": 0, **options}))
        if advised:
            assert made[-1].wait_for_advice(60.0) is not None
        return made[-1]

    yield make
    for runtime in runtimes:
        runtime.stop.set()
    for client in made:
        client.close()


def test_the_fastest_way_is_taken(adapt: Callable[..., AdaptiveClient]) -> None:
    client = adapt(local_ms=10_000.0)
    predictions = [client.predict(BLUE) for _ in range(5)]
    assert {prediction.label for prediction in predictions} == {"blue"}
    assert predictions[-1].cut in REMOTE
    fast = adapt(local_ms=0.0)
    until(lambda: {fast.predict(BLUE).cut for _ in range(5)} == {LOCAL})


def test_the_link_drops_and_comes_back(
    server: Server, adapt: Callable[..., AdaptiveClient]
) -> None:
    """At 20 Mbit/s the split takes few ms, at 0.001 Mbit/s 300 bytes take 2.4 s."""
    with SlowProxy(server.url, ConstantUplink(20.0), rtt_ms=4) as proxy:
        client = adapt(local_ms=150.0, url=proxy.url)

        def back() -> bool:
            return client.predict(BLUE).cut in REMOTE

        until(lambda: all(back() for _ in range(4)))
        proxy.uplink = ConstantUplink(0.001)
        cuts = [client.predict(BLUE).cut for _ in range(4)]
        # The first one is hedged, the second may be; then nothing is sent any more.
        assert cuts[2:] == [LOCAL, LOCAL]
        proxy.uplink = ConstantUplink(20.0)
        until(back)
        assert client.predict(BLUE).label == "blue"


def test_the_link_is_reported_once_it_is_known(
    server: Server, adapt: Callable[..., AdaptiveClient]
) -> None:
    """Photos of some KB over 0.5 Mbit/s."""
    advice = advice_of(5000.0)
    sent = rated(Cut("input", "file"), 10_000, 0.5, 2.0, "picked")
    with SlowProxy(server.url, ConstantUplink(0.5), rtt_ms=10) as proxy:
        client = adapt(
            local_ms=5000.0,
            url=proxy.url,
            advice=replace(advice, use=sent, cuts=(sent, advice.cuts[2])),
        )
        assert not client.explain().link.bandwidth_known

        def is_known() -> bool:
            # One size alone could not tell the bandwidth from the round trip.
            client.predict(noise(8))
            client.predict(noise(64))
            link = client.explain().link
            return link.bandwidth_known and link.rtt_known  # on a busy machine not at the same time

        until(is_known)
        client.predict(noise(8))
    bodies = [seen.body for seen in server.state.seen if seen.method == "POST"]
    for name in (b"isplit_uplink_ms", b"isplit_rtt_ms", b"isplit_queue_ms"):
        assert name not in bodies[0]
        assert name in bodies[-1]


def test_a_late_server_is_hedged(server: Server, adapt: Callable[..., AdaptiveClient]) -> None:
    client = adapt(local_ms=30.0, advice=advice_of(300.0))

    def waits_for_the_server() -> bool:
        return (
            client.predict(BLUE).cut in REMOTE
            and client.explain(deadline_ms=3000).decision.cut in REMOTE
        )

    until(waits_for_the_server)
    server.state.always = hang
    started = time.perf_counter()
    prediction = client.predict(BLUE, deadline_ms=3000)
    assert prediction.cut == LOCAL
    assert prediction.fallback
    assert prediction.label == "blue"
    assert prediction.timings.round_trip_ms > 0  # what was lost on the server
    assert time.perf_counter() - started < 30  # the server and the client's timeout take longer


def test_the_first_of_both_answers_counts(
    server: Server, adapt: Callable[..., AdaptiveClient]
) -> None:
    """The server's answer comes when the device has begun its own, which takes 40 s."""
    client = adapt(local_ms=40_000.0, advice=advice_of(40_000.0))
    client.predict(BLUE)
    device = client.client.runtime
    assert isinstance(device, SlowRuntime)

    def late(handler: Handler) -> None:
        body = server.state.seen[-1].body
        assert device.begun.wait(60)
        handler.predict(body)

    server.state.always = late
    started = time.perf_counter()
    prediction = client.predict(BLUE, deadline_ms=60_000.0)
    assert prediction.cut in REMOTE
    assert not prediction.fallback
    assert device.begun.is_set()
    assert time.perf_counter() - started < 30
    server.state.always = None


def test_an_answer_in_vain_is_ended(server: Server, connect: Callable[..., SplitClient]) -> None:
    """The server answers once the device has begun its own answer, which never ends by itself."""
    began, ended = threading.Event(), threading.Event()

    class Endless:
        def __init__(self, runtime: HeadRuntime) -> None:
            self.runtime = runtime

        def has(self, split_point: str) -> bool:
            return self.runtime.has(split_point)

        def run(self, split_point: str, x: np.ndarray) -> np.ndarray:
            if split_point == "output":
                stop = current_stop()
                assert stop is not None
                with stop.ending(ended.set):
                    began.set()
                    ended.wait(60)
                    raise RuntimeError("ended")
            return self.runtime.run(split_point, x)

    def answer(handler: Handler) -> None:
        if handler.path.startswith("/predictions/toy"):
            began.wait(60)
            handler.predict(server.state.seen[-1].body)
        else:
            body = json.dumps(advice_of(60.0).to_json()).encode()
            handler.answer(200, body, {"Content-Type": "application/json"})

    server.state.always = answer
    plain = connect()
    assert plain.runtime is not None
    with AdaptiveClient(connect(runtime=Endless(plain.runtime), timeout=60.0), seed=0) as client:
        assert client.wait_for_advice(60.0) is not None
        prediction = client.predict(BLUE, deadline_ms=400)
        assert (prediction.label, prediction.fallback) == ("blue", False)
        assert ended.wait(60)
        # What was ended tells nothing of how long the device takes.
        assert client.explain().decision.options[-1].option.device_ms > 0


def test_cuts_in_doubt_are_tried_with_a_known_probability(
    adapt: Callable[..., AdaptiveClient],
) -> None:
    """The device is expected to need 60 ms for the whole network. It needs none."""
    client = adapt(local_ms=0.0, advice=advice_of(60.0), exploration=0.5, seed=1)
    predictions = [client.predict(BLUE) for _ in range(20)]
    assert {prediction.label for prediction in predictions} == {"blue"}
    assert {prediction.propensity for prediction in predictions} <= {0.25, 0.5, 1.0}
    assert 0.5 in {prediction.propensity for prediction in predictions}
    assert client.explain().tries > 0
    never = adapt(local_ms=0.0, advice=advice_of(60.0), exploration=0.0)
    assert {never.predict(BLUE).propensity for _ in range(5)} == {1.0}
    assert never.explain().tries == 0


@pytest.mark.usefixtures("short_backoff")
@pytest.mark.parametrize(
    "fault",
    [BUSY, reset, torchserve_error(404, "ModelNotFoundException", "Model not found: toy")],
    ids=["busy", "reset", "unknown model"],
)
def test_no_photo_is_lost_while_the_server_fails(
    server: Server, adapt: Callable[..., AdaptiveClient], fault: Callable[[Handler], None]
) -> None:
    client = adapt(local_ms=400.0)
    # A local answer that was never given takes an unknown time: the server's is better.
    assert client.predict(BLUE).label == "blue"
    server.state.always = fault
    predictions = [client.predict(BLUE) for _ in range(6)]
    assert {prediction.label for prediction in predictions} == {"blue"}

    def knows() -> bool:
        prediction = client.predict(BLUE)
        assert prediction.label == "blue"
        now = client.explain()
        said = "the server failed" in str(now)
        return prediction.cut == LOCAL and now.server_down_s > 0 and said

    until(knows)
    server.state.always = None
    until(lambda: client.predict(BLUE).cut in REMOTE)
    assert client.explain().server_down_s == 0


@pytest.mark.usefixtures("short_backoff")
def test_a_bundle_without_the_whole_network_says_so(
    server: Server, connect: Callable[..., SplitClient], tmp_path: Path
) -> None:
    server.state.advice = replace(advice_of(), cuts=advice_of().cuts[:2])
    small = write_zip(tmp_path / "small.zip", bundle_files(heads=("double", "pool")))
    client = AdaptiveClient(connect(head=small))
    assert client.predict(BLUE).cut in REMOTE
    server.state.always = reset
    with pytest.raises(ServerUnavailableError):
        client.predict(BLUE)
    server.state.always = None
    assert client.predict(BLUE).cut in REMOTE
    client.close()


@pytest.mark.usefixtures("short_backoff")
@pytest.mark.parametrize("verdict", ["violates", None], ids=["refused", "not listed"])
def test_the_whole_network_is_the_last_resort_whatever_the_advice_says(
    server: Server, adapt: Callable[..., AdaptiveClient], verdict: str | None
) -> None:
    advice = advice_of(local=verdict or "slower")
    if verdict is None:
        advice = replace(advice, cuts=advice.cuts[:2])
    client = adapt(advice=advice)
    assert client.predict(BLUE).cut in REMOTE
    server.state.always = reset
    prediction = client.predict(BLUE)
    assert prediction.cut == LOCAL
    assert prediction.label == "blue"
    assert prediction.fallback


def test_cuts_that_are_not_accurate_are_never_taken(
    adapt: Callable[..., AdaptiveClient],
) -> None:
    client = adapt(advice=advice_of(pool="inaccurate", local="violates"))
    predictions = [client.predict(BLUE) for _ in range(3)]
    assert {prediction.cut for prediction in predictions} == {DOUBLE}
    reasons = {row.cut: row.reason for row in client.explain().decision.options}
    assert reasons[POOL] == "it is inaccurate"


def test_an_endpoint_that_is_away_fails_no_photo(
    server: Server, adapt: Callable[..., AdaptiveClient]
) -> None:
    client = adapt(advised=False, advice=replace(advice_of(), network_hash="another"))
    predictions = [client.predict(BLUE) for _ in range(3)]
    assert {prediction.label for prediction in predictions} == {"blue"}
    assert {prediction.cut for prediction in predictions} <= {DOUBLE, LOCAL}


def test_an_endpoint_that_is_slow_keeps_no_photo_waiting(
    server: Server, adapt: Callable[..., AdaptiveClient]
) -> None:
    def slow_advice(handler: Handler) -> None:
        if handler.path.startswith("/predictions/isplit"):
            hang(handler)
        else:
            handler.predict(server.state.seen[-1].body)

    server.state.always = slow_advice
    client = adapt(advised=False)
    predictions = [client.predict(BLUE) for _ in range(3)]
    assert {prediction.label for prediction in predictions} == {"blue"}
    assert client.explain().advice is None


def test_without_advice_the_device_starts_at_half_of_the_deadline(
    adapt: Callable[..., AdaptiveClient],
) -> None:
    """Nobody has said yet how long the whole network takes here."""
    client = adapt(advised=False, advice=replace(advice_of(), network_hash="another"))
    plan = client._plan(300.0)
    assert not plan.option.is_local
    assert plan.patience_ms == 150


def test_advice_that_contradicts_itself_is_read_strictly(
    adapt: Callable[..., AdaptiveClient],
) -> None:
    """One cut twice, accurate and not; one with negative bytes; one with impossible times."""
    usual = advice_of(5000.0)
    pool, double, local = usual.cuts
    contradictions = (
        pool,
        replace(pool, verdict="inaccurate", reason=""),
        replace(pool, nbytes=1.0),
        replace(double, nbytes=-900.0),
        replace(double, device_ms=-50.0),
        local,
    )
    client = adapt(local_ms=0.0, advice=replace(usual, cuts=contradictions))
    options = {row.cut: row.option for row in client.explain().decision.options}
    assert options[POOL].refused == "inaccurate"
    assert options[DOUBLE].nbytes == 900
    assert np.isnan(options[DOUBLE].device_ms)
    assert {client.predict(BLUE).label for _ in range(3)} == {"blue"}
    assert {client.predict(BLUE).cut for _ in range(3)} <= {DOUBLE, LOCAL}


def test_a_photo_that_cannot_be_read(adapt: Callable[..., AdaptiveClient]) -> None:
    client = adapt()
    with pytest.raises(ImageError):
        client.predict(b"no image")
    assert client.predict(BLUE).label == "blue"


def test_an_impossible_deadline_gets_the_fastest_answer(
    adapt: Callable[..., AdaptiveClient],
) -> None:
    client = adapt()
    client.predict(BLUE)
    assert client.predict(BLUE, deadline_ms=0.01).label == "blue"
    assert client.explain(deadline_ms=0.01).decision.hopeless


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deadline_ms": 0.0}, "deadline_ms: expected a positive number"),
        ({"deadline_ms": float("nan")}, "deadline_ms: expected a positive number"),
        ({"deadline_ms": "300"}, "deadline_ms: expected a positive number, got '300'"),
        ({"objective": "luck"}, "objective: expected latency or bytes"),
        ({"tolerance": 1.5}, "tolerance: expected 0 to 1"),
        ({"refresh_s": 0.0}, "refresh_s: expected a positive number"),
        ({"exploration": 1.0}, "exploration: expected at least 0 and below 1, got 1.0"),
    ],
)
def test_bad_parameters(
    connect: Callable[..., SplitClient], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        AdaptiveClient(connect(), **options)


def test_several_threads_and_async(adapt: Callable[..., AdaptiveClient]) -> None:
    client = adapt()
    colours = [photo(255, 0, 0), photo(0, 255, 0), BLUE]
    labels = ["red", "green", "blue"]
    with ThreadPoolExecutor(4) as pool:
        predictions = list(pool.map(client.predict, colours * 10))
    assert [prediction.label for prediction in predictions] == labels * 10

    async def three() -> list[str]:
        answers = await asyncio.gather(*(client.predict_async(colour) for colour in colours))
        return [answer.label for answer in answers]

    assert asyncio.run(three()) == labels


def test_no_thread_stays(server: Server, adapt: Callable[..., AdaptiveClient]) -> None:
    client = adapt()
    client.predict(BLUE)
    server.state.always = hang
    client.predict(BLUE, deadline_ms=50)
    client.close()
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("isplit ")])
