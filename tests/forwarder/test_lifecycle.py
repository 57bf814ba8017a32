"""Starting, stopping with requests under way, and the commands."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from toys.client import Handler, Server, answering, hang
from toys.forwarder import Forward, Issue
from toys.polling import until

from isplit_plugin.cli import main
from isplit_plugin.errors import ServingError


def test_running_requests_end_before_a_stop(
    server: Server, forward: Forward, issued: Issue
) -> None:
    forwarder = forward(drain_s=60.0)
    url, headers = forwarder.url, {"Authorization": f"Bearer {issued()}"}
    server.state.faults = [_late]
    answered: list[requests.Response] = []
    running = threading.Thread(
        target=lambda: answered.append(
            requests.post(f"{url}/predictions/toy", b"x", headers=headers, timeout=60)
        )
    )
    running.start()
    idle = requests.Session()
    until(lambda: server.state.seen)
    assert idle.get(f"{url}/ping", timeout=60).status_code in (200, 503)
    stopping = threading.Thread(target=forwarder.stop)
    stopping.start()
    until(lambda: _is_refused(url))
    assert forwarder.is_running is False
    assert stopping.is_alive()
    server.state.stop.set()
    stopping.join(60)
    running.join(60)
    assert (answered[0].status_code, answered[0].content) == (200, b"late")
    assert answered[0].headers["Connection"] == "close"
    idle.close()


def test_a_body_under_way_arrives_before_a_stop(
    server: Server, forward: Forward, issued: Issue
) -> None:
    server.state.always = answering(200, b"1")
    forwarder = forward(drain_s=60.0)
    parts = urlsplit(forwarder.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60) as raw:
        start = f"POST /predictions/toy HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {issued()}\r\n"
        raw.sendall(start.encode() + b"Content-Length: 400000\r\n\r\n" + b"x" * 200_000)
        until(lambda: vars(server).get("_threads"))  # TorchServe is being sent the first half
        stopping = threading.Thread(target=forwarder.stop)
        stopping.start()
        until(lambda: _is_refused(forwarder.url))
        raw.sendall(b"x" * 200_000)
        assert raw.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    stopping.join(60)
    assert len(server.state.seen[0].body) == 400_000


def test_a_stop_does_not_wait_for_ever(server: Server, forward: Forward, issued: Issue) -> None:
    forwarder = forward(drain_s=0.2)
    headers = {"Authorization": f"Bearer {issued()}"}
    server.state.always = hang

    def ask() -> None:
        with pytest.raises(requests.ConnectionError):
            requests.post(f"{forwarder.url}/predictions/toy", b"x", headers=headers, timeout=60)

    running = threading.Thread(target=ask)
    running.start()
    until(lambda: server.state.seen)
    forwarder.stop()
    forwarder.stop()
    running.join(60)
    assert not running.is_alive()


def test_an_address_that_is_taken(forward: Forward) -> None:
    taken = urlsplit(forward().url).port
    with pytest.raises(ServingError, match=f"cannot listen on 127.0.0.1:{taken}"):
        forward(port=taken)


def _late(handler: Handler) -> None:
    hang(handler)
    handler.answer(200, b"late", {})


def _is_refused(url: str) -> bool:
    try:
        socket.create_connection((urlsplit(url).hostname or "", urlsplit(url).port or 0)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_command(
    server: Server, key_file: Path, secret_file: Path, issued: Issue, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "isplit_plugin", "forward", "--model", "toy", "--json"]
    command += ["--to", server.url, "--token-file", str(key_file), "--port", "0"]
    command += ["--secret-file", str(secret_file)]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert running.stdout is not None
    try:
        url = json.loads(running.stdout.readline())["url"]
        headers = {"Authorization": f"Bearer {issued()}"}
        answer = requests.get(f"{url}/predictions/isplit/1.0/help", headers=headers, timeout=60)
        assert answer.status_code == 200
        assert requests.get(f"{url}/predictions/isplit/1.0/help", timeout=60).status_code == 401
    finally:
        running.send_signal(signal.SIGTERM)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 143
    assert "refused 127.0.0.1: 401 unauthorized" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--host", "0.0.0.0"], 5, "expected a certificate and its private key"),
        (["--rate", "0"], 5, "rate: expected a number above 0"),
        (["--to", "nonsense"], 5, "expected an address"),
        (["--secret-file", "none"], 3, "secret file none: cannot be read"),
        (["--certificate", "none.pem", "--private-key", "none.pem"], 3, "cannot be read"),
    ],
)
def test_options_that_are_refused(
    secret_file: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    said: str,
) -> None:
    usual = ["forward", "--model", "toy", "--secret-file", str(secret_file), "--no-tokens"]
    assert main([*usual, "--port", "0", *options]) == code
    assert said in capsys.readouterr().err


def test_serve_checks_the_certificate_before_it_starts_torchserve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = tmp_path / "run"
    options = ["--workdir", str(started), "--model-store", str(tmp_path), "--forward"]
    assert main(["serve", *options, "--forward-host", "0.0.0.0"]) == 5
    assert "expected a certificate" in capsys.readouterr().err
    assert not (started / "torchserve.log").exists()


def test_the_limit_of_open_files_is_raised(forward: Forward) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 700 if hard == resource.RLIM_INFINITY else min(700, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        forward(connections=600, requests=128)
        raised, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raised == (1112 if hard == resource.RLIM_INFINITY else min(1112, hard))
        forward(connections=10, requests=10)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == raised
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
