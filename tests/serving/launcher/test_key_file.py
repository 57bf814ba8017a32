"""Tokens of TorchServe's key file: read, and renewed before they expire."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from toys.management import Call, ManagementServer

from isplit_plugin.errors import AuthenticationError, ServingError
from isplit_plugin.serving.launcher import KeyFile, key_file


def _write(path: Path, minutes: float, key: str = "first") -> None:
    """A key file whose tokens are valid for so many minutes."""
    expires = datetime.now(UTC) + timedelta(minutes=minutes)
    entry = {"key": key, "expiration time": expires.isoformat()}
    path.write_text(json.dumps({"API": {"key": "api"}, "inference": entry, "management": entry}))


def test_a_valid_token_is_read_without_asking_the_server(
    tmp_path: Path, server: ManagementServer
) -> None:
    _write(tmp_path / "key_file.json", minutes=30)
    assert KeyFile(tmp_path / "key_file.json", server.url).token() == "first"
    assert server.calls == []


def test_a_token_about_to_expire_is_renewed_with_the_api_key(
    tmp_path: Path, server: ManagementServer
) -> None:
    path = tmp_path / "key_file.json"
    _write(path, minutes=0.5)
    server.answers["GET", "/token"] = (200, lambda: _write(path, minutes=60, key="second"))
    assert KeyFile(path, server.url, margin=60.0).token("management") == "second"
    assert server.calls == [Call("GET", "/token", {"type": ["management"]}, "Bearer api")]


def test_a_valid_token_is_renewed_on_demand(tmp_path: Path, server: ManagementServer) -> None:
    path = tmp_path / "key_file.json"
    _write(path, minutes=30)
    server.answers["GET", "/token"] = (200, lambda: _write(path, minutes=60, key="second"))
    assert KeyFile(path, server.url).renew() == "second"


def test_a_token_that_the_server_does_not_renew(tmp_path: Path, server: ManagementServer) -> None:
    path = tmp_path / "key_file.json"
    _write(path, minutes=0.5)
    server.answers["GET", "/token"] = (500, {"message": "out of\norder"})
    with pytest.raises(ServingError, match="inference token: HTTP 500 out of order"):
        KeyFile(path, server.url).token()
    server.answers["GET", "/token"] = (400, {"type": "InvalidKeyException"})
    with pytest.raises(AuthenticationError):
        KeyFile(path, server.url).token()


def test_a_key_file_that_is_missing_or_broken(
    tmp_path: Path, server: ManagementServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_file, "_READ_PAUSE_S", 0.0)
    path = tmp_path / "key_file.json"
    with pytest.raises(ServingError, match="expected TorchServe's key file, found none"):
        KeyFile(path, server.url).token()
    for text in ("{", "[]", '{"API": {"key": "api"}}'):
        path.write_text(text)
        with pytest.raises(ServingError, match="cannot be read"):
            KeyFile(path, server.url).token()


def test_a_half_written_key_file_is_read_again(
    tmp_path: Path, server: ManagementServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key_file.json"
    path.write_text('{"API": {"key"')
    monkeypatch.setattr(time, "sleep", lambda _: _write(path, minutes=30))
    assert KeyFile(path, server.url).token() == "first"
