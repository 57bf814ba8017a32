"""A small HTTP server that answers what TorchServe's management API answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit


class Call(NamedTuple):
    """One request that the server got."""

    method: str
    path: str
    query: dict[str, list[str]]
    authorization: str | None


class ManagementServer(ThreadingHTTPServer):
    """Answers each (method, path) of ``answers`` with (status, body), and all others with 404.

    A body that is a function is called for each request. ``calls`` are the requests so far.
    """

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.calls: list[Call] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def management_server() -> Iterator[ManagementServer]:
    """A server that answers in a thread of its own until the block ends."""
    with ManagementServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: ManagementServer

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        authorization = self.headers.get("Authorization")
        self.server.calls.append(
            Call(self.command, parts.path, parse_qs(parts.query), authorization)
        )
        status, body = self.server.answers.get(
            (self.command, parts.path), (404, {"message": "not found"})
        )
        content = json.dumps(body() if callable(body) else body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    # Names that http.server asks for.
    do_GET = _answer  # noqa: N815
    do_POST = _answer  # noqa: N815
    do_PUT = _answer  # noqa: N815
    do_DELETE = _answer  # noqa: N815

    def log_message(self, *_: object) -> None: ...
