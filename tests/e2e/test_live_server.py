"""Starting, registering, stopping: cleanly, and with a reason where it does not work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
import torch
from toys.live_server import Live, Model
from toys.polling import until
from toys.serving import head_of, scores_of, tensor_request, toy_photos, whole

from isplit_plugin.client import SplitClient
from isplit_plugin.device_tokens import SECRET_VARIABLE
from isplit_plugin.errors import (
    BundleError,
    SecretError,
    ServerUnavailableError,
    ServingError,
    UnknownModelError,
)
from isplit_plugin.schema import Cut
from isplit_plugin.serving.launcher import TorchServe
from isplit_plugin.serving.launcher.process import Frontend
from isplit_plugin.wire import HEADER, decode_response, http_headers


def _group(pgid: int) -> list[int]:
    pids = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pgid and process.status() != psutil.STATUS_ZOMBIE:
                pids.append(process.pid)
        except (ProcessLookupError, psutil.Error):
            continue
    return pids


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for all temporary files, so that those of other programs do not count."""
    with tempfile.TemporaryDirectory() as folder:  # shorter than tmp_path: it will hold sockets
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def _broken(source: Path, target: Path) -> Path:
    """The archive with one byte of its weights changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = bytearray(old.read(name))
            if name == "network.pt2":
                data[len(data) // 2] ^= 1
            if name == "MAR-INF/MANIFEST.json":
                data = bytearray(data.replace(b'"toy"', b'"broken"'))
            new.writestr(name, data)
    return target


class _Tokens:
    """A device keeps its last token while the server is away."""

    def token(self) -> str:
        return "old"


def test_stopped_and_started_again_it_goes_on_where_it_was(
    toy: Model, tmp_path: Path, scratch: Path
) -> None:
    store = tmp_path / "model_store"
    store.mkdir()
    shutil.copy(toy.built.archive, store)
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    request = tensor_request(
        head_of(toy.net, "relu1", x), "relu1", network_hash=toy.manifest.network_hash, scores=True
    )
    body, length = request.encode()
    [photo] = toy_photos(1)
    current: list[TorchServe | _Tokens] = []
    client: SplitClient | None = None
    ports: dict[str, Any] = {"inference_port": 0, "management_port": 0, "metrics_port": 0}
    for _ in range(2):
        with TorchServe(
            model_store=store,
            workdir=tmp_path / "work",
            store=f"sqlite:///{tmp_path / 'store.db'}",
            token_minutes=0.1,  # less than the margin: every token is a renewed one
            **ports,
        ) as running:
            pgid = running.pid
            assert pgid is not None
            assert len(_group(pgid)) >= 3  # the guard, the frontend and a worker
            assert oct(running.key_path.stat().st_mode & 0o777) == "0o600"
            url = f"{running.inference_url}/predictions/toy"
            for _ in range(2):
                headers = {**http_headers(length), "Authorization": f"Bearer {running.token()}"}
                answer = requests.post(url, body, headers=headers, timeout=30)
                size = answer.headers.get(HEADER)
                got = decode_response(answer.content, int(size) if size else None)
                np.testing.assert_allclose(scores_of(got), whole(toy.net, x), rtol=0, atol=1e-5)
            current[:] = [running]
            client = client or SplitClient(
                running.inference_url,
                model="toy",
                head=toy.built.bundle,
                token=lambda: current[0].token(),
            )
            assert client.predict(photo, cut=Cut("relu2", "fp32")).split_point == "relu2"
            refused = requests.post(
                f"{running.management_url}/models?url=toy.mar",
                headers={"Authorization": f"Bearer {running.management_token()}"},
                timeout=60,
            )
            assert refused.status_code == 405  # the model API is off by default
            ports = {
                name: int(getattr(running, name.replace("port", "url")).rsplit(":", 1)[1])
                for name in ports
            }
            key_path = running.key_path
        assert _group(pgid) == []
        assert not key_path.exists()
        assert list(scratch.iterdir()) == []
        with pytest.raises(requests.ConnectionError):
            requests.get(url, timeout=60)
        current[:] = [_Tokens()]
        with pytest.raises(ServerUnavailableError):
            client.predict(photo, cut=Cut("relu2", "fp32"))
        with pytest.raises(ServingError, match="not running"):
            running.token()
    assert client is not None
    client.close()


def test_an_archive_that_was_tampered_with_stops_the_start_and_leaves_nothing(
    toy: Model, tmp_path: Path, scratch: Path
) -> None:
    _broken(toy.built.archive, tmp_path / "broken.mar")
    started: list[int] = []
    original = Frontend.start

    def start(self: Frontend) -> None:
        original(self)
        started.append(self.pid or 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Frontend, "start", start)
        with pytest.raises(
            ServingError, match=r"BundleError: network\.pt2 of model 'toy' is not the file"
        ):
            TorchServe(model_store=tmp_path, store=f"sqlite:///{tmp_path / 'store.db'}").start()
    assert started
    assert _group(started[0]) == []
    assert list(scratch.iterdir()) == []


def test_interrupted_while_starting_nothing_is_left(
    toy: Model, monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    started: list[int] = []

    def interrupted(self: TorchServe) -> None:
        assert self.pid
        started.append(self.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(TorchServe, "_wait_until_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        TorchServe(model_store=toy.built.archive.parent, models=["toy.mar"]).start()
    assert _group(started[0]) == []
    assert list(scratch.iterdir()) == []


_SERVE = """
import sys
from isplit_plugin.cli import main
sys.exit(main(["serve", "toy", "--json", *sys.argv[1:]]))
"""
_LIBRARY = """
import json, sys, time
from isplit_plugin.serving.launcher import TorchServe
with TorchServe(model_store=sys.argv[2], models=["toy.mar"]) as server:
    print(json.dumps({"pid": server.pid}), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("program", "ending"), [(_SERVE, signal.SIGTERM), (_LIBRARY, signal.SIGKILL)]
)
def test_a_program_that_is_ended_leaves_no_server(
    toy: Model, tmp_path: Path, scratch: Path, program: str, ending: signal.Signals
) -> None:
    store = ["--model-store", str(toy.built.archive.parent)]
    ports = [
        word for name in ("inference", "management", "metrics") for word in (f"--{name}-port", "0")
    ]
    with subprocess.Popen(
        [sys.executable, "-c", program, *store, *ports],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line, "the program ended before the server was ready"
        group = int(json.loads(line)["pid"])
        assert len(_group(group)) >= 3  # the guard, the frontend and a worker
        running.send_signal(ending)
        until(lambda: not _group(group))
        assert running.wait(60) == (143 if ending == signal.SIGTERM else -signal.SIGKILL)
    assert list(scratch.iterdir()) == []
    assert list(tmp_path.rglob("key_file.json")) == []


def test_a_load_that_fails_is_taken_away_and_its_reason_told(live: Live, model_store: Path) -> None:
    _broken(live.toy.built.archive, model_store / "broken.mar")
    with pytest.raises(
        ServingError, match=r"BundleError: network\.pt2 of model 'toy' is not the file"
    ):
        live.server.register("broken.mar")
    with pytest.raises(UnknownModelError):
        live.server.status("broken")
    assert live.server.status("toy").ready


def test_registering_again_and_unregistering(live: Live) -> None:
    with pytest.raises(ServingError, match="already registered"):
        live.server.register(live.toy.built.archive)
    assert live.server.status("toy").ready
    live.server.unregister("isplit")
    with pytest.raises(UnknownModelError):
        live.server.status("isplit")
    assert live.server.register(live.toy.built.endpoint).ready


def test_what_cannot_be_started_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="is not a folder"):
        TorchServe(model_store=tmp_path / "nowhere")
    with pytest.raises(ServingError, match=r"not in the model store .*: absent\.mar"):
        TorchServe(model_store=tmp_path, models=["absent.mar"])
    with pytest.raises(ServingError, match="settings: inference_address: expected only keys"):
        TorchServe(model_store=tmp_path, settings={"inference_address": "http://0.0.0.0:80"})
    (tmp_path / "text.mar").write_text("not a zip")
    with pytest.raises(BundleError, match=r"text\.mar is not a model archive"):
        TorchServe(model_store=tmp_path).start()


def test_the_secret_that_the_environment_names_is_no_other(
    toy: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Servers that share a secret must not make secrets of their own."""
    monkeypatch.setenv(SECRET_VARIABLE, str(tmp_path / "fleet.secret"))
    server = TorchServe(
        model_store=toy.built.archive.parent, models=["toy.mar"], workdir=tmp_path, devices=True
    )
    with pytest.raises(SecretError, match=r"ISPLIT_SECRET_FILE: .*fleet\.secret"):
        server.start()
    assert not (tmp_path / "device.secret").exists()


def test_without_java_nothing_is_left(
    toy: Model, monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    monkeypatch.setattr("isplit_plugin.serving.launcher.java._candidates", list)
    with pytest.raises(ServingError, match="needs Java 11 or newer"):
        TorchServe(model_store=toy.built.archive.parent, models=["toy.mar"]).start()
    assert list(scratch.iterdir()) == []


def test_one_workdir_has_one_server(live: Live, model_store: Path) -> None:
    with pytest.raises(ServingError, match="in use by another server"):
        TorchServe(
            model_store=model_store, models=["toy.mar"], workdir=live.server.log_path.parent
        ).start()
    assert live.server.status("toy").ready
    assert live.server.key_path.exists()
