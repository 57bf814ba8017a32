"""TorchServe's token is renewed before it expires, and read again when its file changes."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from toys.management import management_server

from isplit_plugin.errors import ServerUnavailableError
from isplit_plugin.forwarder import inference_token
from isplit_plugin.forwarder.inference_token import InferenceToken


def write(path: Path, minutes: float, key: str) -> None:
    expires = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
    entry = {"key": key, "expiration time": expires}
    path.write_text(json.dumps({"API": {"key": "api"}, "inference": entry, "management": entry}))


async def keep_until(token: InferenceToken, key: str) -> None:
    keeping = asyncio.create_task(token.keep())
    async with asyncio.timeout(60):
        while token.current() != key:
            await asyncio.sleep(0.01)
    keeping.cancel()


def test_a_token_about_to_expire_is_renewed(tmp_path: Path) -> None:
    path = tmp_path / "key_file.json"
    write(path, 0.5, "first")
    with management_server() as server:
        server.answers["GET", "/token"] = (200, lambda: write(path, 60, "second"))
        token = InferenceToken(path, server.url)
        assert token.current() == "first"
        asyncio.run(keep_until(token, "second"))
        assert len(server.calls) == 1


def test_problems_are_logged_once_and_then_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inference_token, "_RENEW_EVERY_S", 0.02)
    path = tmp_path / "key_file.json"
    write(path, 0.5, "first")
    with management_server() as server, caplog.at_level(logging.WARNING):
        calls = 0

        def renew() -> dict[str, str]:
            nonlocal calls
            calls += 1
            if calls > 3:
                write(path, 60, "second")
            return {}

        server.answers["GET", "/token"] = (200, renew)
        token = InferenceToken(path, server.url)
        asyncio.run(keep_until(token, "second"))
        server.answers["GET", "/token"] = (500, {"message": "out of order"})
        write(path, 0.5, "third")
        asyncio.run(keep_until(token, "third"))
    assert len(caplog.records) <= 1


def test_without_a_file_there_is_no_token_and_half_a_file_keeps_the_old_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "key_file.json"
    token = InferenceToken(path, None)
    with pytest.raises(ServerUnavailableError, match="no token yet") as caught:
        token.current()
    assert caught.value.details["retry_after_s"] == 1
    write(path, 60, "first")
    assert token.current() == "first"
    path.write_text('{"inference": {"ke')
    assert token.current() == "first"
    path.unlink()
    assert token.current() == "first"
    write(path, 60, "second")
    assert token.current() == "second"
    token.read_again()
    assert token.current() == "second"
    asyncio.run(token.keep())  # another program renews it: nothing to do
