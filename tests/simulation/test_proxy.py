"""The proxy in front of a real server: bytes arrive at the link's rate, and none is lost."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from threading import Thread

import pytest
from toys.polling import until

from isplit_plugin.errors import QueryError
from isplit_plugin.simulation import ConstantUplink, SlowProxy, TraceUplink, Uplink

FAST = ConstantUplink(10_000.0)


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that sends back each byte as it comes, one connection at a time."""
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                while data := connection.recv(65_536):
                    connection.sendall(data)

    thread = Thread(target=work)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def round_trip_ms(proxy: SlowProxy, *parts: bytes) -> float:
    """Send the parts one after the other, and wait until all of them are back."""
    address = ("127.0.0.1", int(proxy.url.rpartition(":")[2]))
    with closing(socket.create_connection(address)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started = time.perf_counter()
        for part in parts:
            connection.sendall(part)
        left = sum(len(part) for part in parts)
        while left:
            left -= len(connection.recv(65_536))
        return (time.perf_counter() - started) * 1e3


@pytest.mark.parametrize(
    ("uplink", "least_ms"),
    [
        # 15,000 bytes at 0.6 Mbit/s, and ten packets one every 20 ms.
        (ConstantUplink(0.6), 200),
        (TraceUplink(list(range(20, 20_001, 20))), 180),
    ],
    ids=["constant", "trace"],
)
def test_a_body_takes_as_long_as_the_uplink_says(
    echo: str, uplink: Uplink, least_ms: float
) -> None:
    with SlowProxy(echo, FAST) as proxy:
        # A busy machine may be as slow as the link, but not each time.
        until(lambda: round_trip_ms(proxy, b"x" * 15_000) < least_ms)
        before = proxy.sent_bytes
        proxy.restart(uplink)
        assert round_trip_ms(proxy, b"x" * 15_000) >= least_ms
        assert proxy.sent_bytes - before == 15_000


def test_small_parts_do_not_wait_for_acknowledgements(echo: str) -> None:
    """A header and a body behind it: with Nagle's algorithm the second one waits 40 ms."""
    with SlowProxy(echo, FAST) as proxy:
        until(lambda: round_trip_ms(proxy, b"header", b"body") < 40)


def test_both_directions_take_half_of_the_round_trip(echo: str) -> None:
    with SlowProxy(echo, FAST, rtt_ms=100) as proxy:
        assert round_trip_ms(proxy, b"x") >= 100


def test_bytes_come_through_unchanged_and_in_order(echo: str) -> None:
    data = bytes(range(256)) * 200
    with SlowProxy(echo, ConstantUplink(50.0)) as proxy:
        address = ("127.0.0.1", int(proxy.url.rpartition(":")[2]))
        with closing(socket.create_connection(address)) as connection:
            connection.sendall(data)
            back = b""
            while len(back) < len(data):
                back += connection.recv(65_536)
    assert back == data


@pytest.mark.parametrize("target", ["https://host:1", "host:80", "http://host", ""])
def test_a_target_is_an_address(target: str) -> None:
    with pytest.raises(QueryError, match="target: expected http://host:port"):
        SlowProxy(target, FAST)
