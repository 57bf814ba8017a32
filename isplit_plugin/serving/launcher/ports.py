"""Ports: free ones, and whether one that was chosen can be used."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
from typing import Final

from ...errors import ServingError

_MAX_PORT: Final = 65_535
_PORT_TAKEN: Final = re.compile(r"Address already in use|java\.net\.BindException")
_ADDRESS: Final = re.compile(r"Failed to bind to address:? (?:\S*/)?(\S+)")


def free_ports(count: int) -> list[int]:
    """Different TCP ports of the loopback interface that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for unbound in sockets:
            unbound.bind(("127.0.0.1", 0))
        return [int(bound.getsockname()[1]) for bound in sockets]


def check_port(host: str, port: int, name: str) -> None:
    """Check that a server can listen on a port, before minutes go into starting it.

    Parameters:
        port: 0 passes: a free one will be taken.
        name: of the parameter that chooses the port, such as ``inference_port``; the option of
            ``isplit serve`` has the same one.

    Raises:
        ServingError: another program listens there, the address is not this machine's, or there is
            no such port.
    """
    if not port:
        return
    if not 0 < port <= _MAX_PORT:
        raise ServingError(f"{name}: expected a port from 0 to {_MAX_PORT}, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as attempt:
            # As Java and asyncio do, so that a server can be started again at once.
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(address)
            attempt.listen(1)
    except OSError as error:
        where = f"{host}:{port}"
        if error.errno != errno.EADDRINUSE:
            raise ServingError(f"{name}: cannot listen on {where}: {error.strerror}") from error
        option = f"--{name.replace('_', '-')}"
        raise ServingError(
            f"{name}: {where} is taken: another program listens there, often a server that still "
            f"runs; end it, or choose another port with {option} N (0: a free one)"
        ) from error


def taken_address(log: str) -> str | None:
    """The address that TorchServe found taken, by its log; ``None`` where it found none taken.

    Empty where the log does not say which.
    """
    if not _PORT_TAKEN.search(log):
        return None
    match = _ADDRESS.search(log)
    return match[1].strip(".,") if match else ""
