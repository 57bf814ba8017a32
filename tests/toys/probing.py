"""A tail and the endpoint behind one HTTP port, both in TorchServe's own worker code, and devices
that talk to them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from isplit_plugin.client import HeadBundle, SplitClient
from isplit_plugin.device_tokens import issue, read_secret
from isplit_plugin.schema import Cut
from toys.serving import Ask, Reply, Worker


@dataclass
class Bridge:
    """``url`` of the port; ``bodies``: path and body of everything that was posted, in order."""

    tail: Worker
    endpoint: Worker
    url: str = ""
    bodies: list[tuple[str, bytes]] = field(default_factory=list)


@contextmanager
def bridge(tail: Worker, endpoint: Worker) -> Iterator[Bridge]:
    """Serve ``tail`` as the model `toy` and ``endpoint`` as `isplit`."""
    found = Bridge(tail, endpoint)
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kind = self.headers.get("Content-Type", "application/octet-stream")
            headers = {k: v for k, v in self.headers.items() if k != "Content-Type"}
            with turn:
                found.bodies.append((self.path, body))
                worker = found.endpoint if self.path == "/predictions/isplit" else found.tail
                (reply,) = worker(Ask(body, headers, content_type=kind))
            self.answer(reply)

        def do_GET(self) -> None:
            question = unquote(self.path.removeprefix("/predictions/isplit/1.0/"))
            with turn:
                (reply,) = found.endpoint(Ask(None, {"url_path": question}))
            self.answer(reply)

        def answer(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def client_of(
    url: str, bundle: Path, *, device: str | None = None, secret: Path | None = None, **more: Any
) -> SplitClient:
    """A device with torch heads; ``device``: its id, with a token under ``secret``."""
    opened = HeadBundle(bundle)
    trust = opened.sha256
    opened.close()
    token = None if device is None or secret is None else issue(read_secret(secret), device, days=1)
    options: dict[str, Any] = {"model": "toy", "runtime": "torch", "cut": Cut("relu1", "fp32")}
    return SplitClient(url, head=bundle, trust_pt2=trust, device_token=token, **(options | more))
