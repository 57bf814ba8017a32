"""``isplit register``: ready is said after the endpoint has answered about the model."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toys.client import recommendation
from toys.management import ManagementServer, management_server

from isplit_plugin.cli import main

_QUESTION = ("GET", "/predictions/isplit/1.0/recommendations/toy")


def _described(name: str) -> list[dict[str, Any]]:
    workers = [{"status": "READY", "pid": 100}]
    return [{"modelName": name, "modelVersion": "1.0", "workers": workers}]


@pytest.fixture
def server() -> Iterator[ManagementServer]:
    """Both APIs of a TorchServe that registers toy.mar and has the endpoint."""
    with management_server() as running:
        running.answers["POST", "/models"] = (200, {})
        for path in ("/models/toy", "/models/toy/1.0"):
            running.answers["GET", path] = (200, _described("toy"))
        running.answers["GET", "/models/isplit"] = (200, _described("isplit"))
        running.answers[_QUESTION] = (200, recommendation().to_json())
        yield running


@pytest.fixture
def command(server: ManagementServer, tmp_path: Path) -> list[str]:
    archive = tmp_path / "toy.mar"
    with zipfile.ZipFile(archive, "w") as mar:
        identity = {"model": {"modelName": "toy", "modelVersion": "1.0"}}
        mar.writestr("MAR-INF/MANIFEST.json", json.dumps(identity))
    return ["register", str(archive), "--management-url", server.url, "--url", server.url]


def _questions(server: ManagementServer) -> list[str | None]:
    """The authorization of each question to the endpoint."""
    return [call.authorization for call in server.calls if (call.method, call.path) == _QUESTION]


def test_the_endpoint_is_asked_once(
    server: ManagementServer, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    assert capsys.readouterr().out == "toy 1.0: 1 worker(s), READY\n"
    assert _questions(server) == [None]


def test_the_endpoints_error_is_reported_instead_of_ready(
    server: ManagementServer, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"error": "store /no/such: unable to open database file", "code": "store_unavailable"}
    server.answers[_QUESTION] = (503, error)
    assert main(command) == 5
    output = capsys.readouterr()
    assert "READY" not in output.out
    assert "toy is registered, but the endpoint" in output.err
    assert "unable to open database file" in output.err


def test_without_an_endpoint_nothing_is_asked(
    server: ManagementServer, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    del server.answers["GET", "/models/isplit"]
    assert main(command) == 0
    assert "until isplit.mar is registered" in capsys.readouterr().err
    assert _questions(server) == []


def test_the_question_needs_the_inference_token(
    server: ManagementServer, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--token", "management"]) == 0
    assert "--inference-token" in capsys.readouterr().err
    assert _questions(server) == []
    assert main([*command, "--token", "management", "--inference-token", "inference"]) == 0
    assert _questions(server) == ["Bearer inference"]


def test_the_inference_token_is_that_of_the_key_file(
    server: ManagementServer, command: list[str], tmp_path: Path
) -> None:
    keys = tmp_path / "key_file.json"
    keys.write_text(json.dumps({kind: {"key": kind} for kind in ("inference", "management")}))
    assert main([*command, "--token-file", str(keys)]) == 0
    assert _questions(server) == ["Bearer inference"]
