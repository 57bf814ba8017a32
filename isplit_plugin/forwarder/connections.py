"""Connections of devices: their number is bounded, and none that nobody reads stays open."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from ..errors import IsplitError, WireError
from .answers import error_answer
from .settings import Limits

_LOGGER = logging.getLogger(__name__)
_LINGER_S: Final = 5.0
"""Seconds in which the rest of a body is read after it was refused, so that the device sees why."""
_READ_BYTES: Final = 256 * 1024
_SWEEP_S: Final = 1.0

_POLL_S: Final = 0.02
_CLOSE_S: Final = 1.0
_TURNS: Final = 10

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Connection(web.RequestHandler):
    """One connection. Errors are answered in JSON, and never with a traceback."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status == 400:  # the parser could not read it
            reason = " ".join((message or "").split())[:100]
            error: IsplitError = WireError(f"expected an HTTP/1.1 request ({reason!a})")
        else:
            _LOGGER.error("unexpected error", exc_info=exc)
            error = IsplitError("the forwarder failed; its log has the details")
        answer = error_answer(error)
        answer.force_close()
        return answer


@dataclass(slots=True)
class _Open:
    """An open connection: where it comes from, and since when its answer lies unread."""

    transport: asyncio.Transport
    address: str
    unread: int = 0
    since: float = 0.0


class Connections(web.Server):
    """Makes a connection for each client, up to the limits.

    Parameters:
        answer: answers one request.
        limits: of their number and times.

    Attributes:
        refused: connections that were one too many.
    """

    def __init__(self, answer: Answer, limits: Limits) -> None:
        super().__init__(
            self._handle,
            handler_cancellation=True,  # a device that went away ends its request
            keepalive_timeout=limits.idle_s,
            lingering_time=_LINGER_S,
            read_bufsize=_READ_BYTES,
            auto_decompress=False,
            access_log=None,
        )
        self.refused = 0
        self._answer = answer
        self._limits = limits
        self._open: dict[web.RequestHandler, _Open] = {}
        self._addresses: Counter[str] = Counter()
        self._busy: set[web.RequestHandler] = set()
        self._draining = False

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Count a new connection; end it at once if it is one too many."""
        super().connection_made(handler, transport)
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        self._open[handler] = _Open(transport, address)
        self._addresses[address] += 1
        if (
            self._draining
            or len(self._open) > self._limits.connections
            or self._addresses[address] > self._limits.connections_per_address
        ):
            self.refused += 1
            transport.abort()

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """Forget a connection."""
        super().connection_lost(handler, exc)
        connection = self._open.pop(handler, None)
        if connection is not None:
            self._addresses[connection.address] -= 1
            if not self._addresses[connection.address]:
                del self._addresses[connection.address]

    async def sweep(self) -> None:
        """End connections whose answers nobody reads, until this is cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self._loop.time()
            for connection in list(self._open.values()):
                unread = connection.transport.get_write_buffer_size()
                if not unread or unread != connection.unread:
                    connection.unread, connection.since = unread, now
                elif now - connection.since > self._limits.unread_s:
                    _LOGGER.info("%s does not read its answer", connection.address)
                    connection.transport.abort()

    async def drain(self, listener: asyncio.Server) -> None:
        """Take no more connections, let running requests end, and close all connections."""
        self._draining = True
        for listening in listener.sockets:
            self._loop.remove_reader(listening.fileno())
        # asyncio leaks a connection that it has accepted when the listener closes.
        await self._turns()
        listener.close()
        for handler in [handler for handler in self._open if handler not in self._busy]:
            handler.force_close()
        ends_at = self._loop.time() + self._limits.drain_s
        while self._busy and self._loop.time() < ends_at:
            await asyncio.sleep(_POLL_S)
        if self._busy:
            _LOGGER.warning("%d requests were cut off", len(self._busy))
        await self.shutdown(_CLOSE_S)
        for connection in list(self._open.values()):
            connection.transport.abort()
        await self._turns()

    async def _turns(self) -> None:
        """Let the loop turn, in which asyncio makes and ends connections."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        handler = request.protocol
        self._busy.add(handler)
        try:
            answer = await self._answer(request)
            if self._draining and not answer.prepared:
                answer.force_close()
            return answer
        finally:
            self._busy.discard(handler)
            if self._draining:
                handler.close()
