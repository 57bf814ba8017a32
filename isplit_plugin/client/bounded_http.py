"""Connections of requests and urllib3 that keep to the budget of their attempt.

Importing this module loads requests. The transport does so at its first request.

urllib3 hands sockets to http.client, which reads through ``makefile``. All that a server can send
passes there: status, endless ``100 Continue``, headers, chunks and trailers.
"""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Iterable
from typing import Any, Final

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from .budget import Budget, BudgetError, current

_SLICE: Final = 16 * 1024
"""A TLS record: what one call writes within the timeout of its socket."""
MAX_IDLE_CONNECTIONS: Final = 32
"""Connections that are kept for the next request, one for each thread."""


class BoundedAdapter(HTTPAdapter):
    """An adapter of requests whose connections spend :func:`.budget.current`."""

    def __init__(self) -> None:
        super().__init__(pool_maxsize=MAX_IDLE_CONNECTIONS)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):  # those have connections of their own
            manager.pool_classes_by_scheme = _POOLS
        return manager

    def close_now(self) -> None:
        """Close idle connections. urllib3 would wait until no exception refers to their pools."""
        managers = [self.poolmanager, *self.proxy_manager.values()]
        for manager in managers:
            # Its keys cannot be iterated, and other threads may add some.
            for key in list(manager.pools.keys()):
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()
        self.close()


class _BoundedRaw(io.RawIOBase):
    """Reads from a socket within the time and the bytes of a budget."""

    def __init__(self, connection: socket.socket, budget: Budget) -> None:
        self._connection = connection
        self._raw = connection.makefile("rb", buffering=0)
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(self._budget.remaining_s())
        count = self._raw.readinto(buffer) or 0
        self._budget.take(count)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Source:
    """What http.client reads an answer from, instead of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_BoundedRaw(self._connection, current()))


class _BoundedResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(_Source(sock), *args, **kwargs)  # type: ignore[arg-type]


class _Bounded(HTTPConnection):
    response_class = _BoundedResponse

    def _new_conn(self) -> socket.socket:
        try:
            return self._connect_within(current())
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"cannot connect to {self.host} in time") from error
        except OSError as error:
            raise NewConnectionError(self, str(error)) from error

    def _connect_within(self, budget: Budget) -> socket.socket:
        """Connect to the first address that answers. Raises OSError."""
        addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        failure: OSError = OSError(f"{self.host} has no address")
        for family, kind, protocol, _, address in addresses:
            connection = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    connection.setsockopt(*option)
                connection.settimeout(budget.connect_s())
                budget.watch(connection)
                connection.connect(address)
                connection.settimeout(budget.remaining_s())  # of a TLS handshake
            except BaseException as error:
                connection.close()
                if not isinstance(error, OSError) or isinstance(error, BudgetError):
                    raise
                failure = error
            else:
                return connection
        raise failure

    def send(self, data: Any) -> None:
        if self.sock is None and self.auto_open:
            self.connect()
        budget = current()
        budget.watch(self.sock)
        for piece in _slices(data):
            self.sock.settimeout(budget.remaining_s())
            super().send(piece)


class _BoundedTLS(_Bounded, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Bounded


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _BoundedTLS


_POOLS: Final = {"http": _Pool, "https": _TLSPool}


def _slices(data: Any) -> Iterable[memoryview]:
    view = memoryview(data).cast("B")
    return (view[start : start + _SLICE] for start in range(0, len(view), _SLICE))
