"""Register, describe, scale and unregister models through the management API."""

from __future__ import annotations

import socket
import time
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
from isplit_plugin.serving.launcher import curl_commands, model_status, register, scale, unregister
from isplit_plugin.serving.launcher.registry import load_failure


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
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServerUnavailableError, match="no answer"):
            model_status(url, "toy")


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


def _worker_log(thread: str, *lines: str) -> str:
    """What TorchServe's log holds of these lines of a worker."""
    return "".join(f"2026-01-01T00:00:00 [INFO ] {thread} MODEL_LOG - {line}\n" for line in lines)


def _traceback(thread: str, error: str) -> str:
    return _worker_log(
        thread, "Traceback (most recent call last):", "  File x, line 1, in y", error
    )


def test_an_error_of_another_model_is_not_blamed(tmp_path: Path) -> None:
    log = tmp_path / "torchserve.log"
    mine = _traceback("W-9001-toy_1.0-stdout", "StoreError: no such folder")
    others = [
        _traceback("W-9000-other_1.0-stdout", "ValueError: of another model"),
        _traceback("W-9002-toy_2.0-stdout", "ValueError: of another version"),
        _traceback("W-9003-toy_b_1.0-stderr", "ValueError: of a longer name"),
    ]
    log.write_text("".join(others))
    assert load_failure(log, "toy", "1.0") is None
    assert load_failure(log, "toy", "2.0") == "ValueError: of another version"
    log.write_text("".join([others[0], mine, *others]))
    assert load_failure(log, "toy", "1.0") == "StoreError: no such folder"
    assert load_failure(log) == "ValueError: of a longer name"


def test_the_end_of_a_traceback_is_awaited(tmp_path: Path) -> None:
    log = tmp_path / "torchserve.log"
    *begin, end = _traceback("W-9000-toy_1.0-stdout", "ValueError: late").splitlines(keepends=True)
    log.write_text("".join(begin))
    assert load_failure(log, "toy", "1.0") is None

    def write_end(_seconds: float) -> None:
        with log.open("a") as file:
            file.write(end)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", write_end)
        assert load_failure(log, "toy", "1.0", timeout_s=30.0) == "ValueError: late"


def test_the_lines_of_two_workers_may_alternate(tmp_path: Path) -> None:
    log = tmp_path / "torchserve.log"
    first = _traceback("W-9000-toy_1.0-stdout", "ValueError: first").splitlines()
    second = _traceback("W-9001-other_1.0-stdout", "KeyError: second").splitlines()
    log.write_text("\n".join(line for pair in zip(first, second, strict=True) for line in pair))
    assert load_failure(log, "toy", "1.0") == "ValueError: first"
    assert load_failure(log, "other", "1.0") == "KeyError: second"


def test_a_long_name_is_shortened_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "torchserve.log"
    log.write_text(_traceback("W-9000-a_name_of_more_than_25_ch-stdout", "ValueError: long"))
    assert load_failure(log, "a_name_of_more_than_25_characters", "1.0") == "ValueError: long"
    assert load_failure(log, "a_name", "1.0") is None


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
    log.write_text(_worker_log("W-9000-toy_1.0-stdout", *lines))
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
