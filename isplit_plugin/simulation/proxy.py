"""A proxy that makes a real connection as slow as a simulated link."""

from __future__ import annotations

import queue
import socket
import threading
import time
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from ..closing import Closing
from ..errors import QueryError
from .uplink import Uplink

_CHUNK: Final = 1500
_BACKLOG: Final = 64
"""Chunks that wait in one direction of one connection; more make the sender wait."""
_Chunk = tuple[float, bytes] | None


class SlowProxy(Closing):
    """Listens on a free port of 127.0.0.1 and passes every connection on, slowed down.

    What clients send shares one uplink. Both directions are delayed by half of the round trip. So a
    client that talks to :attr:`url` instead of the server sees the link::

        with SlowProxy(server_url, ConstantUplink(0.5), rtt_ms=40) as proxy:
            SplitClient(proxy.url, ...)

    Parameters:
        target: address of the server, ``http://host:port``.
        uplink: may be replaced while the proxy runs.
        rtt_ms: round trip without the time of the bytes.

    Raises:
        QueryError: ``target`` is not an address.
    """

    def __init__(self, target: str, uplink: Uplink, *, rtt_ms: float = 0.0) -> None:
        parts = urlsplit(target)
        if parts.scheme != "http" or parts.hostname is None or parts.port is None:
            raise QueryError(f"target: expected http://host:port, got {target!r}", field="target")
        self._target = (parts.hostname, parts.port)
        self.rtt_ms = rtt_ms
        self._lock = threading.Lock()
        self._sent_bytes = 0
        self.restart(uplink)
        self._open: set[socket.socket] = set()
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, name="slow proxy", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address to talk to."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def uplink(self) -> Uplink:
        """The uplink. Setting another one lets bytes that already wait go by the old one."""
        return self._uplink

    @uplink.setter
    def uplink(self, uplink: Uplink) -> None:
        with self._lock:
            self._uplink = uplink
            self._queue = uplink.queue()

    @property
    def sent_bytes(self) -> int:
        """All that clients have sent through the uplink, headers included."""
        return self._sent_bytes

    def restart(self, uplink: Uplink) -> None:
        """Begin a trace now: its time 0 is this moment."""
        self._started_s = time.monotonic()
        self.uplink = uplink

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            connections = list(self._open)
        for connection in (self._listener, *connections):
            _end(connection)
        self._thread.join(timeout=5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                _end(client)
                continue
            server.settimeout(None)
            for connection in (client, server):
                # Without this a small chunk waits for the acknowledgement of the one before it.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
            self._pass_on(client, server, limited=True)
            self._pass_on(server, client, limited=False)

    def _pass_on(self, source: socket.socket, sink: socket.socket, *, limited: bool) -> None:
        chunks: queue.Queue[_Chunk] = queue.Queue(_BACKLOG)
        for work, end in ((self._read, source), (self._write, sink)):
            threading.Thread(target=work, args=(end, chunks, limited), daemon=True).start()

    def _read(self, source: socket.socket, chunks: queue.Queue[_Chunk], limited: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                chunks.put((self._due_ms(len(data), limited=limited), data))
        chunks.put(None)

    def _write(self, sink: socket.socket, chunks: queue.Queue[_Chunk], limited: bool) -> None:
        with suppress(OSError):
            while (chunk := chunks.get()) is not None:
                due_ms, data = chunk
                time.sleep(max(0.0, (due_ms - self._now_ms()) / 1000))
                sink.sendall(data)
        _end(sink)
        with self._lock:
            self._open.discard(sink)
        while chunk is not None:
            chunk = chunks.get()

    def _due_ms(self, nbytes: int, *, limited: bool) -> float:
        """When a chunk arrives at the other end."""
        with self._lock:
            sent_ms = self._now_ms()
            if limited:
                self._sent_bytes += nbytes
                sent_ms = self._queue.send(sent_ms, nbytes)
            return sent_ms + self.rtt_ms / 2

    def _now_ms(self) -> float:
        return (time.monotonic() - self._started_s) * 1000


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
