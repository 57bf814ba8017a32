"""One request through the forwarder: admit, check, pass on, and give the answer back."""

from __future__ import annotations

import asyncio
import json
from typing import Final

import aiohttp
from aiohttp import web

from ..errors import (
    IsplitError,
    QueryError,
    ServerTimeoutError,
    ServerUnavailableError,
)
from ..wire import SERVER_TIME, write_server_time
from .admission import Admission
from .answers import SERVER, error_answer, json_answer
from .bodies import Body
from .budgets import Budgets
from .headers import answer_headers, request_headers
from .refusals import Refusals
from .routes import Kind, Route, check_model, is_ping, read_route
from .settings import ForwarderSettings
from .upstream import RETRY_S, Content, Upstream

_KEPT: Final = 256 * 1024
"""Bodies up to this size are held, so that they can be sent again with another token."""
_MAX_MESSAGE: Final = 262_144
"""Bytes of a question, labels or a report of a probe: what the endpoint reads."""


class Passing:
    """Answers the requests of devices.

    Parameters:
        settings: what is passed, and the limits.
        admission: who is admitted.
        upstream: TorchServe.
    """

    def __init__(
        self, settings: ForwarderSettings, admission: Admission, upstream: Upstream
    ) -> None:
        self._settings = settings
        self._models = frozenset(settings.models)
        self._admission = admission
        self._upstream = upstream
        self._budgets = Budgets(settings.limits)
        self._refusals = Refusals()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to one request, whatever it is."""
        try:
            if is_ping(request.method, request.raw_path):
                return await self._ping()
            return await self._pass(request)
        except IsplitError as error:
            self._refusals.add(error, request.remote)
            answer = error_answer(error)
            if not request.content.is_eof():
                answer.force_close()  # the rest of the body is no request
            return answer

    async def _ping(self) -> web.Response:
        if await self._upstream.is_healthy():
            return json_answer({"status": "Healthy"})
        raise ServerUnavailableError("TorchServe does not answer", retry_after_s=RETRY_S)

    async def _pass(self, request: web.BaseRequest) -> web.StreamResponse:
        admitted = self._admission.admit(request.headers.getall("Authorization", []))
        route = read_route(
            request.method,
            request.raw_path,
            self._models,
            explanations=self._settings.explanations,
        )
        with self._budgets.request(admitted.device.id):
            body = Body(request, self._settings.limits, self._max_bytes(route))
            headers = request_headers(request.headers.items(), admitted.token)
            content: Content
            if route.kind is Kind.MESSAGE:
                content = await self._message(body)
                headers["Content-Type"] = "application/json"
            elif body.length is not None and body.length <= _KEPT:
                content = await body.read()
            else:
                content = body.chunks()
                if body.length is not None:
                    headers["Content-Length"] = str(body.length)
            try:
                return await self._send(request, route, headers, content, body)
            except ServerUnavailableError as error:
                raise body.error or error from None

    def _max_bytes(self, route: Route) -> int:
        if route.kind is Kind.QUESTION:
            return 0
        return _MAX_MESSAGE if route.kind is Kind.MESSAGE else self._settings.limits.max_body

    async def _message(self, body: Body) -> bytes:
        """The body of a message to the endpoint. Raises QueryError, UnknownModelError."""
        data = await body.read()
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            got = f"{len(data)} bytes that are no JSON" if data else "nothing"
            raise QueryError(f"body: expected a JSON object, got {got}", field="body") from None
        if not isinstance(message, dict):
            got = type(message).__name__
            raise QueryError(f"body: expected a JSON object, got {got}", field="body")
        if "model" in message:
            check_model(message["model"], self._models)
        return data

    async def _send(
        self,
        request: web.BaseRequest,
        route: Route,
        headers: dict[str, str],
        content: Content,
        body: Body,
    ) -> web.StreamResponse:
        """Send the request to TorchServe, again if it refuses its token, and relay the answer.

        ``body``: the request's, which says since when TorchServe could have worked on it.
        """
        for _ in range(2 if isinstance(content, bytes) else 1):
            if self._upstream.token is not None:
                headers["Authorization"] = f"Bearer {self._upstream.token.current()}"
            async with self._upstream.request(
                request.method, route.path, headers, content or None
            ) as answer:
                if not await self._upstream.refuses_token(answer):
                    return await _relay(request, answer, body)
        raise ServerUnavailableError(
            "TorchServe refused the forwarder's token, which may have just changed; try again",
            retry_after_s=RETRY_S,
        )


async def _relay(
    request: web.BaseRequest, answer: aiohttp.ClientResponse, body: Body
) -> web.StreamResponse:
    """Give TorchServe's answer to the device, with how long TorchServe took."""
    headers = {**answer_headers(answer.headers.items()), **SERVER}
    length = answer.content_length
    if length is not None and length <= _KEPT:
        try:
            content = await answer.read()
        except TimeoutError as error:
            raise ServerTimeoutError("TorchServe's answer stopped half-way") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ServerUnavailableError("TorchServe's answer broke off") from error
        headers[SERVER_TIME] = _server_time(body)
        return web.Response(body=content, status=answer.status, headers=headers)
    headers[SERVER_TIME] = _server_time(body)
    relayed = web.StreamResponse(status=answer.status, headers=headers)
    relayed.content_length = length
    await relayed.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await relayed.write(chunk)
    except (aiohttp.ClientError, TimeoutError):
        # The device must see that its answer is not complete.
        if request.transport is not None:
            request.transport.abort()
        return relayed
    await relayed.write_eof()
    return relayed


def _server_time(body: Body) -> str:
    """How long ago the last byte of the request was here, for the header."""
    return write_server_time(1e3 * (asyncio.get_running_loop().time() - body.ended_s))
