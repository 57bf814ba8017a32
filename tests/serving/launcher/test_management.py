"""Register, describe, scale and unregister models through the management API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toys.management import ManagementServer

from isplit_plugin.errors import (
    AuthenticationError,
    ServerUnavailableError,
    ServingError,
    UnknownModelError,
)
from isplit_plugin.serving.launcher import (
    curl_commands,
    model_status,
    register,
    scale,
    unregister,
)
from isplit_plugin.serving.launcher.process import free_ports


def _described(*workers: str) -> list[dict[str, Any]]:
    rows = [{"status": s, "pid": 100 + i} for i, s in enumerate(workers)]
    return [{"modelName": "toy", "modelVersion": "1.0", "workers": rows}]


def test_status_counts_workers(server: ManagementServer) -> None:
    server.answers["GET", "/models/toy"] = (200, _described("LOADING", "READY"))
    status = model_status(server.url, "toy")
    assert status.ready
    assert status.workers == ("LOADING", "READY")
    assert status.pids == (100, 101)
    with pytest.raises(UnknownModelError, match="no model 'other'"):
        model_status(server.url, "other")


def test_nothing_listens() -> None:
    with pytest.raises(ServerUnavailableError, match="no answer"):
        model_status(f"http://127.0.0.1:{free_ports(1)[0]}", "toy")


def test_a_refused_token_is_an_authentication_error(server: ManagementServer) -> None:
    server.answers["GET", "/models/toy"] = (
        400,
        {"type": "InvalidKeyException", "message": "Token ... incorrect"},
    )
    with pytest.raises(AuthenticationError, match="token refused"):
        model_status(server.url, "toy", token="wrong")


def test_registering_waits_for_a_ready_worker(server: ManagementServer) -> None:
    server.answers["POST", "/models"] = (200, {"status": "Model toy registered"})
    server.answers["GET", "/models/toy"] = (200, _described("READY"))
    assert register(server.url, "toy.mar", token=lambda: "t", workers=2).ready
    post = server.calls[1]
    assert (post.method, post.path, post.authorization) == ("POST", "/models", "Bearer t")
    assert post.query == {"url": ["toy.mar"], "initial_workers": ["2"], "synchronous": ["true"]}


def test_a_failed_load_leaves_nothing_registered_and_says_why(
    server: ManagementServer, tmp_path: Path
) -> None:
    log = tmp_path / "torchserve.log"
    lines = (
        "Traceback (most recent call last):",
        "  File x, line 1, in y",
        "BundleError: network.pt2 is not the file that was packaged",
        "Traceback (most recent call last):",
        "RuntimeError: 500 - Unknown exception",
    )
    prefix = "2026-01-01T00:00:00 [INFO ] W-1 MODEL_LOG - "
    log.write_text("".join(f"{prefix}{line}\n" for line in lines))
    server.answers["POST", "/models"] = (
        500,
        {"message": "Failed to start workers for model toy version: 1.0"},
    )
    replies = iter([[], _described("UNLOADED")])
    server.answers["GET", "/models/toy/all"] = (200, lambda: next(replies))
    server.answers["DELETE", "/models/toy/1.0"] = (200, {})
    with pytest.raises(ServingError, match=r"BundleError: network\.pt2 is not the file") as error:
        register(server.url, "toy.mar", log_path=log)
    assert "Failed to start workers" in error.value.details["answer"]
    assert [(call.method, call.path) for call in server.calls][-1] == ("DELETE", "/models/toy/1.0")


def test_a_version_that_was_there_before_is_never_taken_away(server: ManagementServer) -> None:
    server.answers["POST", "/models"] = (
        409,
        {"message": "Model version 1.0 is already registered for model toy"},
    )
    server.answers["GET", "/models/toy/all"] = (200, _described("READY"))
    with pytest.raises(ServingError, match="already registered"):
        register(server.url, "toy.mar")
    assert "DELETE" not in {call.method for call in server.calls}


def test_a_closed_model_api_is_explained(server: ManagementServer) -> None:
    server.answers["POST", "/models"] = (405, {"message": "Requested method is not allowed"})
    with pytest.raises(ServingError, match="enable_model_api"):
        register(server.url, "toy.mar")
    assert "DELETE" not in {call.method for call in server.calls}


def test_unregister_and_scale(server: ManagementServer) -> None:
    server.answers["DELETE", "/models/toy/1.0"] = (200, {})
    unregister(server.url, "toy", version="1.0")
    server.answers["PUT", "/models/toy"] = (200, {})
    server.answers["GET", "/models/toy"] = (200, _described("READY", "READY"))
    assert scale(server.url, "toy", 2).workers == ("READY", "READY")
    assert server.calls[1].query == {
        "min_worker": ["2"],
        "max_worker": ["2"],
        "synchronous": ["true"],
    }
    with pytest.raises(UnknownModelError):
        unregister(server.url, "other")
    with pytest.raises(UnknownModelError):
        scale(server.url, "other", 1)


def test_the_curl_commands_say_the_same() -> None:
    commands = curl_commands("http://host:8081", "/store/toy.mar", workers=2)
    assert (
        "-X POST 'http://host:8081/models?url=toy.mar&initial_workers=2&synchronous=true'"
        in commands[1]
    )
    assert all("$TOKEN" in c or c.startswith("TOKEN=") for c in commands)
