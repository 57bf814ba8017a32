"""Answers of the forwarder itself: errors in the form that all servers of isplit answer them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

from ..errors import AuthenticationError, IsplitError

SERVER: Mapping[str, str] = {"Server": "isplit"}


def error_answer(error: IsplitError) -> web.Response:
    """The answer for an error, with ``Retry-After`` where trying again later is safe."""
    headers = dict(SERVER)
    retry_after_s = error.details.get("retry_after_s")
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    if isinstance(error, AuthenticationError):
        headers["WWW-Authenticate"] = 'Bearer realm="isplit"'
    return json_answer(error.to_json(), error.status, headers)


def json_answer(
    body: object, status: int = 200, headers: Mapping[str, str] = SERVER
) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=json.dumps(body, default=str).encode(),
        status=status,
        headers=headers,
        content_type="application/json",
    )
