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

_QUESTION = ("GET", "/predictions/isplit/1.0/recommendations/toy/version/1.0")


def _described(name: str, *versions: str) -> list[dict[str, Any]]:
    workers = [{"status": "READY", "pid": 100}]
    return [
        {"modelName": name, "modelVersion": version, "workers": workers}
        for version in versions or ("1.0",)
    ]


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
    assert "toy 1.0 is registered, but the endpoint" in output.err
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


@pytest.fixture
def beside(server: ManagementServer, tmp_path: Path) -> list[str]:
    """The command that registers 2.0 on the server, where 1.0 is the default version."""
    archive = tmp_path / "toy-2.0.mar"
    with zipfile.ZipFile(archive, "w") as mar:
        identity = {"model": {"modelName": "toy", "modelVersion": "2.0"}}
        mar.writestr("MAR-INF/MANIFEST.json", json.dumps(identity))
    server.answers["GET", "/models/toy/all"] = (200, _described("toy", "1.0"))
    server.answers["GET", "/models/toy/2.0"] = (200, _described("toy", "2.0"))
    server.answers["PUT", "/models/toy/2.0/set-default"] = (200, {})
    path = "/predictions/isplit/1.0/recommendations/toy/version/2.0"
    server.answers["GET", path] = (200, recommendation(version="2.0").to_json())
    return ["register", str(archive), "--management-url", server.url, "--url", server.url]


def _writes(server: ManagementServer) -> list[tuple[str, str]]:
    return [(call.method, call.path) for call in server.calls if call.method != "GET"]


def test_a_second_version_leaves_the_first_the_default(
    server: ManagementServer, beside: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(beside) == 0
    assert _writes(server) == [("POST", "/models")]
    output = capsys.readouterr().out
    assert output.startswith("toy 2.0: 1 worker(s), READY\n")
    assert "no version go to 1.0" in output
    assert "/predictions/toy/2.0" in output


@pytest.mark.parametrize("registered", [("1.0",), ("1.0", "2.0")])
def test_a_version_becomes_the_default_whether_it_is_registered_or_not(
    server: ManagementServer, beside: list[str], registered: tuple[str, ...]
) -> None:
    server.answers["GET", "/models/toy/all"] = (200, _described("toy", *registered))
    server.answers["GET", "/models/toy"] = (200, _described("toy", "2.0"))
    assert main([*beside, "--default"]) == 0
    default = ("PUT", "/models/toy/2.0/set-default")
    assert _writes(server) == ([] if "2.0" in registered else [("POST", "/models")]) + [default]


def test_the_curl_commands_make_a_version_the_default(
    beside: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*beside, "--print-curl"]) == 0
    assert "set-default" not in capsys.readouterr().out
    assert main([*beside, "--print-curl", "--default"]) == 0
    assert "-X PUT" in capsys.readouterr().out.splitlines()[-1]


def test_unregister(server: ManagementServer, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["unregister", "toy", "--management-url", server.url]
    server.answers["GET", "/models/toy/all"] = (200, _described("toy", "10.0", "2.0"))
    assert main(command) == 3
    assert "one of 2.0, 10.0" in capsys.readouterr().err
    assert main([*command, "--version", "3.0"]) == 3
    assert "unknown version '3.0' of model 'toy'; known: 2.0, 10.0" in capsys.readouterr().err
    message = {"message": "Cannot remove default version: 2.0 for model: toy"}
    server.answers["DELETE", "/models/toy/2.0"] = (403, message)
    assert main([*command, "--version", "2.0"]) == 5
    assert "make one of them the default version first" in capsys.readouterr().err
    server.answers["DELETE", "/models/toy/10.0"] = (200, {})
    assert main([*command, "--version", "10.0"]) == 0
    assert capsys.readouterr().out == "toy 10.0: unregistered\n"
    assert main(["unregister", "cat", "--management-url", server.url]) == 3
    server.answers["GET", "/models/toy/all"] = (200, _described("toy", "1.0"))
    server.answers["DELETE", "/models/toy"] = (200, {})
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model": "toy", "version": "1.0"}


def test_the_management_address_may_come_from_the_environment(
    server: ManagementServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISPLIT_MANAGEMENT_URL", server.url)
    server.answers["GET", "/models/toy/all"] = (200, _described("toy", "1.0"))
    server.answers["DELETE", "/models/toy/1.0"] = (200, {})
    assert main(["unregister", "toy", "--version", "1.0"]) == 0


def test_the_forwarders_address_is_not_the_endpoints(
    server: ManagementServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator who is a device, too, has the forwarder's address in ISPLIT_URL."""
    archive = tmp_path / "toy.mar"
    with zipfile.ZipFile(archive, "w") as mar:
        identity = {"model": {"modelName": "toy", "modelVersion": "1.0"}}
        mar.writestr("MAR-INF/MANIFEST.json", json.dumps(identity))
    monkeypatch.setenv("ISPLIT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ISPLIT_INFERENCE_URL", server.url)
    assert main(["register", str(archive), "--management-url", server.url]) == 0
