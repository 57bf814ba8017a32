"""``Forwarder``: start it, stop it in good order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import ssl
import threading
from types import TracebackType
from typing import Final, Self

from ..device_tokens import TokenVerifier
from ..errors import ServingError
from .admission import Admission
from .connections import Connections
from .passing import Passing
from .settings import ForwarderSettings, Limits
from .tls import Certificate, certificate_of
from .upstream import Upstream

_LOGGER = logging.getLogger(__name__)
_HANDSHAKE_S: Final = 10.0
_LOAD_EVERY_S: Final = 5.0
_BACKLOG: Final = 256
_OTHER_FILES: Final = 256


class Forwarder:
    """A forwarder in a thread of this process, as a context manager.

    Parameters:
        settings: where it listens and what it passes.

    Attributes:
        url: the address for devices; empty before the start.

    Raises:
        SecretError: the operator's secret, the list of revoked ids or the private key cannot be
            used, or others may read them.
        ArtifactError: the certificate cannot be used.
    """

    def __init__(self, settings: ForwarderSettings) -> None:
        self.url = ""
        self._settings = settings
        self._admission = Admission(TokenVerifier.from_file(settings.secret_file), settings.groups)
        self._certificate = certificate_of(settings)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._ready = threading.Event()
        self._errors: list[Exception] = []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Listen. Returns when devices can connect. Raises ServingError if the address is taken."""
        self._ready.clear()
        _allow_files(self._settings.limits)
        self._errors.clear()
        self._thread = threading.Thread(target=self._run, name="isplit-forwarder", daemon=True)
        self._thread.start()
        self._ready.wait()
        for error in self._errors:
            self._thread.join()
            where = f"{self._settings.host}:{self._settings.port}"
            raise ServingError(f"cannot listen on {where}: {error}") from error
        return self

    def stop(self) -> None:
        """Take no more requests, let the running ones end, and stop. Safe to call twice."""
        thread, loop, end = self._thread, self._loop, self._end
        self._thread = None
        if thread is None:
            return
        if loop is not None and end is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(end.set)
        thread.join()

    @property
    def is_running(self) -> bool:
        """Whether devices can connect."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:
            self._errors.append(error)
            if self._ready.is_set():
                _LOGGER.exception("the forwarder ended")
        finally:
            self._ready.set()

    async def _main(self) -> None:
        settings = self._settings
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        async with Upstream(settings) as upstream:
            passing = Passing(settings, self._admission, upstream)
            connections = Connections(passing.answer, settings.limits)
            listener = await self._listen(connections)
            chores = [asyncio.create_task(connections.sweep())]
            if upstream.token is not None:
                chores.append(asyncio.create_task(upstream.token.keep()))
            if self._certificate is not None:
                chores.append(asyncio.create_task(_keep_certificate(self._certificate)))
            self._ready.set()
            try:
                await self._end.wait()
            finally:
                await connections.drain(listener)
                for chore in chores:
                    chore.cancel()
                await asyncio.gather(*chores, return_exceptions=True)

    async def _listen(self, connections: Connections) -> asyncio.Server:
        settings = self._settings
        context: ssl.SSLContext | None = None
        handshake_s: float | None = None
        if self._certificate is not None:
            context, handshake_s = self._certificate.context, _HANDSHAKE_S
        listener = await asyncio.get_running_loop().create_server(
            connections,
            settings.host,
            settings.port,
            ssl=context,
            ssl_handshake_timeout=handshake_s,
            ssl_shutdown_timeout=handshake_s,
            backlog=_BACKLOG,
        )
        port = listener.sockets[0].getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = f"{'https' if settings.tls else 'http'}://{host}:{port}"
        return listener


def _allow_files(limits: Limits) -> None:
    """Let this process have as many sockets as the limits allow, as far as the system lets it."""
    needed = _OTHER_FILES + limits.connections + 2 * limits.requests
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        _LOGGER.warning(
            "the system allows %d open files, which is less than %d connections need",
            allowed,
            limits.connections,
        )


async def _keep_certificate(certificate: Certificate) -> None:
    while True:
        await asyncio.sleep(_LOAD_EVERY_S)
        certificate.load_again()
