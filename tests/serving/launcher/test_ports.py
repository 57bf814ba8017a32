"""Ports: free ones, those that are taken, and what TorchServe's log says of them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from toys.polling import until

from isplit_plugin.errors import ServingError
from isplit_plugin.serving.launcher import check_port
from isplit_plugin.serving.launcher.ports import free_ports, taken_address


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which another program listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_free_ports_are_different_and_free() -> None:
    def are_free() -> bool:
        ports = free_ports(8)
        assert len(set(ports)) == 8
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in ports:
                s = stack.enter_context(socket.socket())
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(("127.0.0.1", port))
            return True
        return False  # another process was quicker

    until(are_free)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_taken_port_is_named_with_what_to_do(host: str, taken: int) -> None:
    with pytest.raises(ServingError) as caught:
        check_port(host, taken, "inference_port")
    message = caught.value.message
    assert message.startswith(f"inference_port: {host}:{taken} is taken")
    assert "--inference-port N (0: a free one)" in message
    assert "\n" not in message


def test_a_port_that_was_just_used_is_free_again() -> None:
    """A connection that the server closed keeps its port for a minute, for others than servers."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server.accept()[0].close()
            assert client.recv(1) == b""
    check_port("127.0.0.1", port, "inference_port")
    check_port("127.0.0.1", 0, "inference_port")


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 8080), ("no.such.host.invalid", 8080)])
def test_an_address_that_is_not_ours_is_no_taken_port(host: str, port: int) -> None:
    with pytest.raises(ServingError, match=f"metrics_port: cannot listen on {host}:{port}: ."):
        check_port(host, port, "metrics_port")


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_there_is_not(port: int) -> None:
    with pytest.raises(ServingError, match=f"expected a port from 0 to 65535, got {port}"):
        check_port("127.0.0.1", port, "metrics_port")


@pytest.mark.parametrize(
    ("log", "address"),
    [
        ("Failed to bind to address: http://127.0.0.1:80\nAddress already in use", "127.0.0.1:80"),
        ("IOException: Failed to bind to address localhost/127.0.0.1:70\njava.net.BindException", "127.0.0.1:70"),
        ("java.net.BindException: Address already in use", ""),
        ("Backend worker process died", None),
    ],
)  # fmt: skip
def test_the_taken_address_in_a_log(log: str, address: str | None) -> None:
    assert taken_address(log) == address
