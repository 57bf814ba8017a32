"""A call ends in time, whatever the server does, and leaves no thread and no socket behind."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from toys import hostile
from toys.client import BUSY, Server, hang, photo, reset
from toys.hostile import Script
from toys.polling import until

from isplit_plugin.client import SplitClient, Timeout, Transport
from isplit_plugin.errors import (
    ServerBusyError,
    ServerTimeoutError,
    ServerUnavailableError,
    TransportError,
)

GREEN = photo(51, 204, 0)
LONG_S = 60.0
"""Far beyond every limit here, and below what the servers would go on for."""

NEVER_ENDING = {
    "a byte at a time": hostile.BYTE_BY_BYTE,
    "endless 100 Continue": hostile.CONTINUE,
    "slow status line": hostile.SLOW_STATUS,
    "slow headers": hostile.SLOW_HEADERS,
    "one-byte chunks": hostile.ONE_BYTE_CHUNKS,
    "endless trailers": hostile.TRAILERS,
    "silence": hostile.silent,
}


@pytest.mark.parametrize("script", NEVER_ENDING.values(), ids=NEVER_ENDING.keys())
def test_an_answer_that_never_ends(script: Script) -> None:
    threads = {*threading.enumerate()}
    started = time.monotonic()
    with hostile.hostile(script) as server:
        transport = Transport(server.url, timeout=(2, 0.6))
        with pytest.raises(ServerTimeoutError, match=r"no complete answer within 0\.6 s"):
            transport.post("/predictions/toy", b"{}", {})
        assert time.monotonic() - started < LONG_S
        if script is not hostile.silent:  # it notices when it sends
            assert server.ended.wait(LONG_S)  # before the transport is closed
        until(lambda: server.accepted)
        assert server.accepted == 1  # the server may be working on it
        transport.close()
    assert {*threading.enumerate()} <= threads


TOO_LARGE = "an answer of at most 65536 bytes"
FLOODS = {
    "a chunk size": (hostile.FLOOD_IN_A_CHUNK_SIZE, "maximum allowed length"),
    "a trailer": (hostile.FLOOD_IN_A_TRAILER, "maximum allowed length"),
    "trailers": (hostile.FLOOD_OF_TRAILERS, TOO_LARGE),
    "100 Continue": (hostile.FLOOD_OF_CONTINUE, TOO_LARGE),
    "a body": (hostile.FLOOD_OF_CHUNKS, TOO_LARGE),
}


@pytest.mark.parametrize(("script", "says"), FLOODS.values(), ids=FLOODS.keys())
def test_an_answer_that_floods(script: Script, says: str) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with hostile.hostile(script) as server:
        transport = Transport(server.url, timeout=60)
        with pytest.raises(TransportError, match=says):
            transport.post("/predictions/toy", b"{}", {}, max_bytes=65536)
        assert server.ended.wait(LONG_S)
        transport.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 32 * 1024


def test_a_connection_that_is_never_accepted() -> None:
    with hostile.full_backlog() as url:
        started = time.monotonic()
        timeouts: list[Timeout] = [(0.2, 250.0), (250.0, 0.2), 0.2]
        for timeout in timeouts:
            transport = Transport(url, timeout=timeout)
            with pytest.raises(ServerTimeoutError, match=r"cannot connect in time|within 0\.2 s"):
                transport.get("/ping")
            transport.close()
        assert time.monotonic() - started < LONG_S


def test_a_tls_handshake_that_never_ends() -> None:
    for script in (hostile.silent, hostile.repeating(b"\x16\x03\x03\x3f\xff", b"\0")):
        with hostile.hostile(script) as server:
            transport = Transport(server.url.replace("http:", "https:"), timeout=0.3)
            started = time.monotonic()
            with pytest.raises(ServerTimeoutError):
                transport.get("/ping")
            assert time.monotonic() - started < LONG_S
            transport.close()


@pytest.mark.parametrize("script", [hostile.silent, hostile.SLOW_HEADERS])
def test_a_proxy_that_never_answers(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    with hostile.hostile(script) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        for scheme in ("http", "https"):
            transport = Transport(f"{scheme}://192.0.2.1:8080", timeout=0.3)
            started = time.monotonic()
            with pytest.raises(ServerTimeoutError):
                transport.get("/ping")
            assert time.monotonic() - started < LONG_S
            transport.close()


def test_a_server_that_does_not_read() -> None:
    with hostile.hostile(hostile.silent, reads_request=False) as server:
        transport = Transport(server.url, timeout=0.3)
        with pytest.raises(ServerTimeoutError):
            transport.post("/predictions/toy", bytes(32 * 2**20), {})
        transport.close()


@pytest.mark.parametrize(
    ("fault", "expected"), [(reset, ServerUnavailableError), (BUSY, ServerBusyError)]
)
def test_retries_live_inside_the_deadline(
    server: Server,
    fault: Callable[..., None],
    expected: type[TransportError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("isplit_plugin.client.transport._BACKOFF_S", 0.05)
    server.state.always = fault
    transport = Transport(server.url, deadline=0.5, retries=10**6)
    errors = []
    for _ in range(20):  # on a busy machine, time may run out within an attempt
        started = time.monotonic()
        with pytest.raises(TransportError) as caught:
            transport.get("/ping")
        assert time.monotonic() - started < LONG_S
        errors.append(type(caught.value))
        if expected in errors:
            break
    transport.close()
    assert errors[-1] is expected  # the cause, and not that time ran out in a pause
    assert len(server.state.seen) > 1


@pytest.mark.usefixtures("short_backoff")
def test_the_deadline_is_that_of_the_call(server: Server, bundle: object) -> None:
    """The second attempt gets what the first one has left of it."""
    server.state.faults = [BUSY, hang]
    with (
        SplitClient(server.url, model="toy", head=str(bundle), timeout=90, deadline=2.0) as client,
        pytest.raises(ServerTimeoutError, match=r"no complete answer within [012](\.\d+)? s"),
    ):
        client.predict(GREEN)
    assert len(server.state.seen) == 2


def test_a_client_goes_on_after_a_deadline(server: Server, bundle: object) -> None:
    server.state.faults = [hang]
    with SplitClient(server.url, model="toy", head=str(bundle), timeout=0.3) as client:
        with pytest.raises(ServerTimeoutError):
            client.predict(GREEN)
        labels: list[str] = []

        def goes_on() -> bool:
            with suppress(ServerTimeoutError):  # a busy machine may need longer
                labels.append(client.predict(GREEN).label)
            return bool(labels)

        until(goes_on)
        assert labels == ["green"]


def test_a_request_is_cancelled_from_another_thread() -> None:
    with hostile.hostile(hostile.silent) as server:
        transport = Transport(server.url)
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                transport.get("/ping")
            except ServerUnavailableError as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        while thread.is_alive():
            transport.cancel()
            thread.join(0.01)
        transport.close()
    assert [type(error) for error in errors] == [ServerUnavailableError]
    assert "cancelled" in str(errors[0])
    assert server.accepted <= 1


@pytest.mark.parametrize(
    "timeout", [0, -1, float("nan"), float("inf"), True, "5", None, (1, 2, 3), (1,), (0, 1)]
)
def test_what_is_no_timeout(timeout: object) -> None:
    with pytest.raises(TransportError, match="timeout: expected seconds"):
        Transport("http://127.0.0.1:9", timeout=timeout)  # type: ignore[arg-type]
    if not isinstance(timeout, tuple) and timeout is not None:
        with pytest.raises(TransportError, match="deadline: expected seconds"):
            Transport("http://127.0.0.1:9", deadline=timeout)  # type: ignore[arg-type]
