"""A round trip is told apart into network, queue and work, by durations of one clock each."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from toys.client import Handler, Server, photo

from isplit_plugin.client import SplitClient
from isplit_plugin.wire import SERVER_TIME, header_length, http_headers

PHOTO = photo(0, 0, 255)


def stamped(server: Server, *, server_ms: object = None, **stamps: Any) -> None:
    """The server waits 60 ms, answers as it does, and says these times."""

    class Stamping:
        def __init__(self, handler: Handler) -> None:
            self._handler = handler
            self.server, self.headers = handler.server, handler.headers

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            length = header_length(headers) or len(body)
            answer = json.loads(body[:length])
            for name, value in stamps.items():
                answer["parameters"][f"isplit_{name}"] = value
            changed = json.dumps(answer).encode()
            more = {} if server_ms is None else {SERVER_TIME: str(server_ms)}
            headers = {**http_headers(len(changed)), **more}
            self._handler.answer(status, changed + body[length:], headers)

    def answer(handler: Handler) -> None:
        server.state.stop.wait(0.06)
        Handler.predict(Stamping(handler), server.state.seen[-1].body)  # type: ignore[arg-type]

    server.state.always = answer


def test_what_the_worker_and_the_forwarder_say(
    server: Server, connect: Callable[..., SplitClient]
) -> None:
    stamped(server, decode_ms=5.0, tail_ms=20.0, queue_ms=3.0)
    client = connect()
    timings = client.predict(PHOTO).timings
    assert (timings.queue_ms, timings.server_ms) == (3.0, 28.0)
    assert timings.network_ms == pytest.approx(timings.round_trip_ms - 28.0)
    # A forwarder sees more of the wait than the worker.
    stamped(server, server_ms=45.5, decode_ms=5.0, tail_ms=20.0, queue_ms=3.0)
    timings = client.predict(PHOTO).timings
    assert (timings.decode_ms, timings.tail_ms) == (5.0, 20.0)
    assert timings.queue_ms == pytest.approx(20.5)
    assert timings.network_ms == pytest.approx(timings.round_trip_ms - 45.5)


@pytest.mark.parametrize(
    "server_ms", ["nan", "inf", "-3", "soon", "1e9", 500_000, 24.0, "0x3"], ids=str
)
def test_an_impossible_time_of_the_forwarder_leaves_the_workers(
    server: Server, connect: Callable[..., SplitClient], server_ms: object
) -> None:
    """Also one that is shorter than the work itself, or longer than the round trip."""
    stamped(server, server_ms=server_ms, decode_ms=5.0, tail_ms=20.0, queue_ms=3.0)
    timings = connect().predict(PHOTO).timings
    assert (timings.decode_ms, timings.tail_ms, timings.queue_ms) == (5.0, 20.0, 3.0)


@pytest.mark.parametrize("stamp", [-1.0, "5", 500_000, 1e300, True])
def test_an_impossible_time_of_the_worker_is_none(
    server: Server, connect: Callable[..., SplitClient], stamp: object
) -> None:
    client = connect()
    stamped(server, decode_ms=5.0, tail_ms=stamp, queue_ms=3.0)
    timings = client.predict(PHOTO).timings
    assert timings.tail_ms == 0
    assert timings.server_ms in (0.0, 3.0, 8.0)
    stamped(server, decode_ms=5.0, tail_ms=20.0, queue_ms=stamp)
    timings = client.predict(PHOTO).timings
    assert (timings.decode_ms, timings.tail_ms, timings.queue_ms) == (5.0, 20.0, 0.0)
    assert timings.network_ms == pytest.approx(timings.round_trip_ms - 25.0)
