"""Reading the body of a request: bounded in size before a byte is read, and in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from ..errors import IsplitError, SlowBodyError, WireError, WireSizeError
from .settings import Limits


class Body:
    """The body of one request.

    Parameters:
        request: whose body was not read yet.
        limits: of its pace.
        max_bytes: of its size.

    Attributes:
        length: its declared length in bytes; ``None`` where it comes in chunks.
        error: why reading it ended before its end, as far as that is the device's doing.
        ended_s: when its last byte was here, on the loop's clock.

    Raises:
        WireSizeError: the declared length is above ``max_bytes``.
        WireError: the length is declared in two ways.
    """

    def __init__(self, request: web.BaseRequest, limits: Limits, max_bytes: int) -> None:
        headers = request.headers
        if "Transfer-Encoding" in headers and "Content-Length" in headers:
            raise WireError("expected Content-Length or Transfer-Encoding, got both")
        chunked = "Transfer-Encoding" in headers
        self.length = None if chunked else request.content_length or 0
        self.error: IsplitError | None = None
        self.ended_s = asyncio.get_running_loop().time()
        self._request = request
        self._limits = limits
        self._max_bytes = max_bytes
        if self.length is not None and self.length > max_bytes:
            raise self._too_large(self.length)

    async def read(self) -> bytes:
        """All of it. Raises as :meth:`chunks`."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        """Its parts, as they arrive.

        Raises:
            WireSizeError: it is larger than allowed.
            SlowBodyError: it comes too slowly.
            WireError: it ends before its end.
        """
        try:
            async for chunk in self._chunks():
                yield chunk
        except IsplitError as error:
            self.error = error
            raise

    async def _chunks(self) -> AsyncIterator[bytes]:
        if self.length == 0:
            return
        await self._invite()
        content = self._request.content
        loop = asyncio.get_running_loop()
        started, total = loop.time(), 0
        while True:
            allowed_s = self._limits.body_grace_s + total / self._limits.body_rate
            try:
                async with asyncio.timeout_at(started + allowed_s):
                    chunk = await content.readany()
            except TimeoutError:
                raise SlowBodyError(
                    f"expected a body with at least {self._limits.body_rate:g} bytes a second, "
                    f"got {total} bytes in {loop.time() - started:.0f} s"
                ) from None
            except (web.RequestPayloadError, ConnectionError) as error:
                raise WireError(f"the body broke off after {total} bytes") from error
            self.ended_s = loop.time()
            if not chunk:
                break
            total += len(chunk)
            if total > self._max_bytes:
                raise self._too_large(total)
            yield chunk
        if self.length is not None and total != self.length:
            raise WireError(f"expected a body of {self.length} bytes, got {total}")

    async def _invite(self) -> None:
        """Tell a device that asks first (``Expect: 100-continue``) to send its body."""
        if self._request.headers.get("Expect", "").lower() == "100-continue":
            writer = self._request.writer
            await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # The head of the answer comes first all the same.
            writer.output_size = 0

    def _too_large(self, size: int) -> WireSizeError:
        return WireSizeError(
            f"expected a body of at most {self._max_bytes} bytes, got {size} or more",
            limit=self._max_bytes,
        )
