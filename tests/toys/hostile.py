"""Servers of raw sockets that never finish an answer, and one that never accepts a connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Script = Callable[[socket.socket, threading.Event], None]
"""What a server does with a connection whose request it has read, until the event is set."""
HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_PACE_S = 0.02


def repeating(start: bytes, piece: bytes, pace_s: float = _PACE_S) -> Script:
    """Sends ``start``, then ``piece`` again and again."""

    def run(connection: socket.socket, stop: threading.Event) -> None:
        connection.sendall(start)
        while not stop.wait(pace_s):
            connection.sendall(piece)

    return run


def silent(connection: socket.socket, stop: threading.Event) -> None:
    stop.wait()


BYTE_BY_BYTE = repeating(HEADERS + b"Content-Length: 100000\r\n\r\n", b"x")
CONTINUE = repeating(b"", b"HTTP/1.1 100 Continue\r\n\r\n")
SLOW_STATUS = repeating(b"HTTP/1.1 200 ", b"O")
SLOW_HEADERS = repeating(HEADERS + b"X-Long: ", b"x")
ONE_BYTE_CHUNKS = repeating(HEADERS + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")
TRAILERS = repeating(HEADERS + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: x\r\n")
FLOOD_IN_A_CHUNK_SIZE = repeating(
    HEADERS + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 2**20, pace_s=0.0
)
FLOOD_IN_A_TRAILER = repeating(
    HEADERS + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: " + b"x" * 2**20, pace_s=0.0
)
FLOOD_OF_TRAILERS = repeating(
    HEADERS + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: x\r\n" * 80_000, pace_s=0.0
)
FLOOD_OF_CHUNKS = repeating(
    HEADERS + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 80_000, pace_s=0.0
)
FLOOD_OF_CONTINUE = repeating(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 40_000, pace_s=0.0)


class HostileServer:
    """A listening socket whose connections run a script.

    Attributes:
        url: its address.
        accepted: connections so far.
        ended: set when a client has closed or broken a connection.
    """

    def __init__(self, script: Script, *, reads_request: bool = True) -> None:
        self.accepted = 0
        self.ended = threading.Event()
        self._script = script
        self._reads_request = reads_request
        self._stop = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._stop.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                if self._reads_request:
                    connection.recv(65536)
                self._script(connection, self._stop)
            except OSError:
                self.ended.set()


@contextmanager
def hostile(script: Script, *, reads_request: bool = True) -> Iterator[HostileServer]:
    server = HostileServer(script, reads_request=reads_request)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def full_backlog() -> Iterator[str]:
    """The address of a socket whose queue of connections is full: connecting to it hangs."""
    fillers: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        address = listening.getsockname()
        try:
            for _ in range(4):
                fillers.append(socket.socket())
                fillers[-1].setblocking(False)
                with suppress(BlockingIOError):
                    fillers[-1].connect(address)
            yield f"http://127.0.0.1:{address[1]}"
        finally:
            for filler in fillers:
                filler.close()
