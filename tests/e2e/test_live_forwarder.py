"""The forwarder in front of a real TorchServe: the whole client, errors, tokens, and a restart."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from toys.live_server import Live, Model
from toys.polling import until
from toys.serving import head_of, tensor_request, toy_photos

from isplit_plugin.client import (
    SplitClient,
    Transport,
    fetch_recommendation,
    read_key,
    send_labels,
)
from isplit_plugin.device_tokens import issue, new_secret, read_secret, revoke, revoked_path
from isplit_plugin.errors import (
    NetworkMismatchError,
    ServerUnavailableError,
    TokenError,
    UnknownModelError,
    WireError,
)
from isplit_plugin.forwarder import Forwarder, ForwarderSettings, Limits
from isplit_plugin.serving.launcher.ports import free_ports
from isplit_plugin.wire import http_headers


@pytest.fixture(scope="module")
def secret_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_secret(tmp_path_factory.mktemp("forwarder") / "device.secret")


@pytest.fixture(scope="module")
def forwarder(live: Live, secret_file: Path) -> Iterator[Forwarder]:
    settings = ForwarderSettings(
        models=("toy",),
        secret_file=secret_file,
        url=live.server.inference_url,
        key_file=live.server.key_path,
        management_url=live.server.management_url,
        port=0,
        explanations=True,
        limits=Limits(max_body=40 * 1024 * 1024),
    )
    with Forwarder(settings) as running:
        yield running


@pytest.fixture(scope="module")
def token(secret_file: Path) -> str:
    return issue(read_secret(secret_file), "phone-1", days=1)


def test_predictions_questions_and_labels(live: Live, forwarder: Forwarder, token: str) -> None:
    (photo,) = toy_photos(1)
    with (
        SplitClient(
            forwarder.url, model="toy", head=live.toy.built.bundle, device_token=token
        ) as client,
        SplitClient(
            live.server.inference_url,
            model="toy",
            head=live.toy.built.bundle,
            token=live.server.token,
        ) as direct,
    ):
        for cut in ("relu1:fp32", "relu2:uint8+zstd", "input", "output"):
            assert client.predict(photo, cut=cut).top == direct.predict(photo, cut=cut).top
        prediction = client.predict(photo, cut="relu1:fp32")
        times = prediction.timings
        # The forwarder sees TorchServe's own part, which the worker does not.
        assert times.queue_ms > 0.1
        assert times.tail_ms > 0
        parts = (times.network_ms, times.queue_ms, times.decode_ms, times.tail_ms)
        assert sum(parts) == pytest.approx(times.round_trip_ms)
        assert client.recommendation(bandwidth_mbps=2.0).network_hash
    assert fetch_recommendation(forwarder.url, "toy", token, classes=[0, 2]).use.verdict == "picked"

    def labelled() -> bool:
        labels = {prediction.request_id: prediction.class_id}
        return send_labels(forwarder.url, labels, live.label_secret, token).taken == 1

    until(labelled)  # the worker writes its requests once a second


def test_the_servers_errors_arrive_unchanged(live: Live, forwarder: Forwarder, token: str) -> None:
    transport = Transport(forwarder.url, token=token)
    with pytest.raises(WireError):
        transport.post("/predictions/toy", b"\x00\x01", {})
    values = head_of(live.toy.net, "relu1", torch.zeros(1, 3, 16, 16))
    body, length = tensor_request(values, "relu1", network_hash="f" * 64).encode()
    with pytest.raises(NetworkMismatchError) as caught:
        transport.post("/predictions/toy", body, http_headers(length))
    assert caught.value.details["head"] == "f" * 16
    for ask, path in (
        (lambda path: transport.post(path, b"x", {}), "/predictions/resnet18"),
        (transport.get, "/predictions/isplit/1.0/recommendations/resnet18"),
    ):
        with pytest.raises(UnknownModelError, match="known: toy"):
            ask(path)
    transport.close()
    headers = {"Authorization": f"Bearer {token}"}
    large = requests.post(
        f"{forwarder.url}/predictions/toy",
        b"\0" * (32 * 1024 * 1024 + 1),
        headers=headers,
        timeout=60,
    )
    assert (large.status_code, large.content) == (413, b"")


def test_explanations_pass_but_no_header_describe(
    live: Live, forwarder: Forwarder, token: str
) -> None:
    values = head_of(live.toy.net, "relu1", torch.zeros(1, 3, 16, 16))
    request = tensor_request(values, "relu1", network_hash=live.toy.manifest.network_hash)
    body, length = request.encode()
    headers = {"Authorization": f"Bearer {token}", **http_headers(length)}
    explained = requests.post(
        f"{forwarder.url}/explanations/toy", body, headers=headers, timeout=60
    )
    assert explained.json()["items"][0]["curve"]
    tricks = {"describe": "True", "explain": "True", "url_path": "help"}
    plain = requests.post(
        f"{forwarder.url}/predictions/toy", body, headers={**headers, **tricks}, timeout=60
    )
    assert "top_class" in plain.text


def test_a_renewed_token_of_torchserve(live: Live, forwarder: Forwarder, token: str) -> None:
    transport = Transport(forwarder.url, token=token, retries=0)
    for _ in range(3):
        live.server.renew_token()
        transport.get("/predictions/isplit/1.0/help")
    transport.close()
    assert requests.get(f"{forwarder.url}/ping", timeout=60).json() == {"status": "Healthy"}


def test_a_revoked_device(live: Live, forwarder: Forwarder, secret_file: Path) -> None:
    lost = issue(read_secret(secret_file), "lost", days=1)
    fetch_recommendation(forwarder.url, "toy", lost)
    revoke(revoked_path(secret_file), ["lost"])
    with pytest.raises(TokenError, match="revoked"):
        fetch_recommendation(forwarder.url, "toy", lost)


@contextmanager
def served(model_store: Path, workdir: Path, port: int) -> Iterator[dict[str, Any]]:
    """`isplit serve --forward` with the toy network, from its first line to SIGTERM."""
    command = [sys.executable, "-m", "isplit_plugin", "serve", "toy", "--forward", "--json"]
    command += [f"--{name}-port=0" for name in ("management", "metrics", "forward")]
    command += [f"--inference-port={port}", "--workdir", str(workdir)]
    running = subprocess.Popen(
        [*command, "--model-store", str(model_store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    try:
        line = running.stdout.readline()
        assert line, running.communicate()[1]
        yield json.loads(line)
    finally:
        running.send_signal(signal.SIGTERM)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 143, errors
    assert "Traceback" not in errors


def test_one_command_serves_and_a_forwarder_outlives_a_restart(
    toy: Model, model_store: Path, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    workdir = tmp_path / "run"
    with served(model_store, workdir, port) as first:
        token = issue(read_secret(first["secret_file"]), "phone-1", days=1)
        with SplitClient(
            first["forwarder_url"], model="toy", head=toy.built.bundle, device_token=token
        ) as client:
            prediction = client.predict(toy_photos(1)[0], cut="relu1:fp32")
        assert prediction.device == "ok"
        beside = Forwarder(
            ForwarderSettings(
                models=("toy",),
                secret_file=Path(first["secret_file"]),
                url=first["inference_url"],
                key_file=Path(first["key_file"]),
                port=0,
            )
        ).start()
        transport = Transport(beside.url, token=token, retries=0)
        transport.get("/predictions/isplit/1.0/help")
        old = read_key(first["key_file"])
    try:
        with pytest.raises(ServerUnavailableError, match="TorchServe does not answer"):
            transport.get("/predictions/isplit/1.0/help")
        with served(model_store, workdir, port) as second:
            assert read_key(second["key_file"]) != old
            transport.get("/predictions/isplit/1.0/help")
    finally:
        transport.close()
        beside.stop()
