"""Tokens and TorchServe's management API, against a small HTTP server that answers what TorchServe answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from isplit_plugin.errors import (
    AuthenticationError,
    ServerUnavailableError,
    ServingError,
    UnknownModelError,
)
from isplit_plugin.serving.launcher import (
    KeyFile,
    curl_commands,
    model_status,
    register,
    scale,
    unregister,
)
from isplit_plugin.serving.launcher.process import free_ports


class _Server(BaseHTTPRequestHandler):
    answers: ClassVar[dict[tuple[str, str], tuple[int, Any]]] = {}
    seen: ClassVar[list[tuple[str, str, dict[str, list[str]], str | None]]] = []

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        type(self).seen.append(
            (self.command, parts.path, parse_qs(parts.query), self.headers.get("Authorization"))
        )
        status, body = type(self).answers.get(
            (self.command, parts.path), (404, {"message": "not found"})
        )
        body = body() if callable(body) else body
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 (names that http.server asks for)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    _Server.answers, _Server.seen = {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def _described(*workers: str) -> list[dict[str, Any]]:
    rows = [{"status": s, "pid": 100 + i} for i, s in enumerate(workers)]
    return [{"modelName": "toy", "modelVersion": "1.0", "workers": rows}]


def _keys(path: Path, minutes: float, key: str = "first") -> None:
    entry = {
        "key": key,
        "expiration time": (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat(),
    }
    path.write_text(json.dumps({"API": {"key": "api"}, "inference": entry, "management": entry}))


def test_a_valid_token_is_read_and_nobody_is_asked(tmp_path: Path, server: str) -> None:
    _keys(tmp_path / "key_file.json", minutes=30)
    assert KeyFile(tmp_path / "key_file.json", server).token() == "first"
    assert _Server.seen == []


def test_a_token_about_to_expire_is_renewed_with_the_api_key(tmp_path: Path, server: str) -> None:
    path = tmp_path / "key_file.json"
    _keys(path, minutes=0.5)
    _Server.answers["GET", "/token"] = (200, lambda: _keys(path, minutes=60, key="second"))
    assert KeyFile(path, server, margin=60.0).token("management") == "second"
    assert _Server.seen == [("GET", "/token", {"type": ["management"]}, "Bearer api")]


def test_a_key_file_that_is_not_there_or_broken(tmp_path: Path, server: str) -> None:
    with pytest.raises(ServingError, match="is not there"):
        KeyFile(tmp_path / "key_file.json", server).token()
    (tmp_path / "key_file.json").write_text("{")
    with pytest.raises(ServingError, match="cannot be read"):
        KeyFile(tmp_path / "key_file.json", server).token()


def test_status_counts_workers(server: str) -> None:
    _Server.answers["GET", "/models/toy"] = (200, _described("LOADING", "READY"))
    status = model_status(server, "toy")
    assert status.ready
    assert status.workers == ("LOADING", "READY")
    assert status.pids == (100, 101)
    with pytest.raises(UnknownModelError, match="no model 'other'"):
        model_status(server, "other")


def test_nothing_listens() -> None:
    with pytest.raises(ServerUnavailableError, match="no answer"):
        model_status(f"http://127.0.0.1:{free_ports(1)[0]}", "toy")


def test_a_refused_token_is_an_authentication_error(server: str) -> None:
    _Server.answers["GET", "/models/toy"] = (
        400,
        {"type": "InvalidKeyException", "message": "Token ... incorrect"},
    )
    with pytest.raises(AuthenticationError, match="token refused"):
        model_status(server, "toy", token="wrong")


def test_registering_waits_for_a_ready_worker(server: str) -> None:
    _Server.answers["POST", "/models"] = (200, {"status": "Model toy registered"})
    _Server.answers["GET", "/models/toy"] = (200, _described("READY"))
    assert register(server, "toy.mar", token=lambda: "t", workers=2).ready
    method, path, query, auth = _Server.seen[1]
    assert (method, path, auth) == ("POST", "/models", "Bearer t")
    assert query == {"url": ["toy.mar"], "initial_workers": ["2"], "synchronous": ["true"]}


def test_a_failed_load_leaves_nothing_registered_and_says_why(server: str, tmp_path: Path) -> None:
    log = tmp_path / "torchserve.log"
    log.write_text(
        "2026-01-01T00:00:00 [INFO ] W-1 MODEL_LOG - Traceback (most recent call last):\n"
        "2026-01-01T00:00:00 [INFO ] W-1 MODEL_LOG -   File x, line 1, in y\n"
        "2026-01-01T00:00:00 [INFO ] W-1 MODEL_LOG - BundleError: network.pt2 is not the file that was packaged\n"
        "2026-01-01T00:00:00 [INFO ] W-1 MODEL_LOG - Traceback (most recent call last):\n"
        "2026-01-01T00:00:00 [INFO ] W-1 MODEL_LOG - RuntimeError: 500 - Unknown exception\n"
    )
    _Server.answers["POST", "/models"] = (
        500,
        {"message": "Failed to start workers for model toy version: 1.0"},
    )
    replies = iter([[], _described("UNLOADED")])
    _Server.answers["GET", "/models/toy/all"] = (200, lambda: next(replies))
    _Server.answers["DELETE", "/models/toy/1.0"] = (200, {})
    with pytest.raises(ServingError, match=r"BundleError: network\.pt2 is not the file") as error:
        register(server, "toy.mar", log_path=log)
    assert "Failed to start workers" in error.value.details["answer"]
    assert [(s[0], s[1]) for s in _Server.seen][-1] == ("DELETE", "/models/toy/1.0")


def test_a_version_that_was_there_before_is_never_taken_away(server: str) -> None:
    _Server.answers["POST", "/models"] = (
        409,
        {"message": "Model version 1.0 is already registered for model toy"},
    )
    _Server.answers["GET", "/models/toy/all"] = (200, _described("READY"))
    with pytest.raises(ServingError, match="already registered"):
        register(server, "toy.mar")
    assert "DELETE" not in {s[0] for s in _Server.seen}


def test_a_closed_model_api_is_explained(server: str) -> None:
    _Server.answers["POST", "/models"] = (405, {"message": "Requested method is not allowed"})
    with pytest.raises(ServingError, match="enable_model_api"):
        register(server, "toy.mar")
    assert "DELETE" not in {s[0] for s in _Server.seen}


def test_unregister_and_scale(server: str) -> None:
    _Server.answers["DELETE", "/models/toy/1.0"] = (200, {})
    unregister(server, "toy", version="1.0")
    _Server.answers["PUT", "/models/toy"] = (200, {})
    _Server.answers["GET", "/models/toy"] = (200, _described("READY", "READY"))
    assert scale(server, "toy", 2).workers == ("READY", "READY")
    assert _Server.seen[1][2] == {"min_worker": ["2"], "max_worker": ["2"], "synchronous": ["true"]}
    with pytest.raises(UnknownModelError):
        unregister(server, "other")
    with pytest.raises(UnknownModelError):
        scale(server, "other", 1)


def test_the_curl_commands_say_the_same() -> None:
    commands = curl_commands("http://host:8081", "/store/toy.mar", workers=2)
    assert (
        "-X POST 'http://host:8081/models?url=toy.mar&initial_workers=2&synchronous=true'"
        in commands[1]
    )
    assert all("$TOKEN" in c or c.startswith("TOKEN=") for c in commands)
