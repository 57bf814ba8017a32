"""TorchServe, as the forwarder reaches it: kept connections, its token, and its failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self

import aiohttp
from yarl import URL

from ..errors import ServerTimeoutError, ServerUnavailableError
from .inference_token import InferenceToken
from .settings import ForwarderSettings

_CONNECT_S: Final = 5.0
_KEEP_S: Final = 30.0
_HEALTH_S: Final = 1.0
_SMALL: Final = 4096
_REFUSED_TOKEN: Final = "InvalidKeyException"  # noqa: S105  TorchServe's name of an error
_OWN_HEADERS: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
RETRY_S: Final = 1

Content = bytes | AsyncIterator[bytes] | None


class Upstream:
    """Connections to TorchServe. Use it as an asynchronous context manager.

    Attributes:
        token: TorchServe's token; ``None`` if it requires none.
    """

    def __init__(self, settings: ForwarderSettings) -> None:
        self.token = (
            None
            if settings.key_file is None
            else InferenceToken(settings.key_file, settings.management_url)
        )
        self._url = settings.url.rstrip("/")
        self._answer_s = settings.limits.answer_s
        self._session: aiohttp.ClientSession | None = None
        self._asking = asyncio.Lock()
        self._asked_at = -_HEALTH_S
        self._healthy = False

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_S, sock_read=self._answer_s
            ),
            auto_decompress=False,
            skip_auto_headers=_OWN_HEADERS,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)  # asyncio ends the connections in its next turn

    @asynccontextmanager
    async def request(
        self, method: str, path: str, headers: dict[str, str], content: Content
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; yields the answer, whose body was not read yet.

        Raises:
            ServerUnavailableError: TorchServe does not answer. ``details["retry_after_s"]`` is
                there if it is safe to try again.
            ServerTimeoutError: TorchServe does not answer in time.
        """
        if self._session is None:
            raise ServerUnavailableError("the forwarder is not running")
        try:
            answer = await self._session.request(
                method,
                URL(self._url + path, encoded=True),
                headers=headers,
                data=content,
                allow_redirects=False,
            )
        except aiohttp.ConnectionTimeoutError as error:
            raise self._away(error) from error
        except TimeoutError as error:
            raise ServerTimeoutError(
                f"TorchServe did not answer within {self._answer_s:g} s"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._away(error) from error
        async with answer:
            yield answer

    async def is_healthy(self) -> bool:
        """Whether TorchServe answered within the last second that it is healthy.

        Anybody may ask the forwarder, so TorchServe is asked once for all of them.
        """
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if now >= self._asked_at + _HEALTH_S:
                self._healthy = await self._ask_health()
                self._asked_at = now
            return self._healthy

    async def _ask_health(self) -> bool:
        try:
            token = None if self.token is None else self.token.current()
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            async with self.request("GET", "/ping", headers, None) as answer:
                return answer.status == 200
        except (ServerUnavailableError, ServerTimeoutError):
            return False

    async def refuses_token(self, answer: aiohttp.ClientResponse) -> bool:
        """Whether TorchServe refuses its token, which is then read again for the next request."""
        small = answer.content_length is not None and answer.content_length <= _SMALL
        if self.token is None or answer.status not in (400, 401, 403) or not small:
            return False
        try:
            body = json.loads(await answer.read())
        except ValueError:
            return False
        refused = isinstance(body, dict) and body.get("type") == _REFUSED_TOKEN
        if refused:
            self.token.read_again()
        return refused

    def _away(self, error: Exception) -> ServerUnavailableError:
        return ServerUnavailableError(
            f"TorchServe does not answer ({type(error).__name__}); try again",
            retry_after_s=RETRY_S,
        )
