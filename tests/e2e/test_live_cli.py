"""The command line from end to end, as a user types it: profile, package, serve, predict,
recommend.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

_FACTORY = """
import torch
from torch import nn
from isplit_plugin.schema import Preprocessing

def build():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )
    return net, Preprocessing(crop=(32, 32), resize=32), ("red", "green", "blue")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli")
    (root / "toyfactory.py").write_text(_FACTORY)
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (root / "photos" / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 120, (40, 48, 3), dtype=np.uint8)
            pixels[..., channel] = 220
            Image.fromarray(pixels).save(root / "photos" / name / f"{number}.png")
    return root


def isplit(folder: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "isplit_plugin", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def packaged(folder: Path) -> Path:
    isplit(folder, "profile", "--network", "toyfactory:build", "--data", "photos", "-o", "toy")
    assert "<svg" in (folder / "toy.html").read_text()
    arguments = (
        "--network",
        "toyfactory:build",
        "--profile",
        "toy.profile.safetensors",
        "--split-points",
        "1,3",
    )
    built = json.loads(isplit(folder, "package", *arguments, "--json"))
    assert built["deployed"] == ["1", "3"]
    return folder


@pytest.fixture(scope="module")
def served(packaged: Path) -> Iterator[dict[str, Any]]:
    ports = ("--inference-port", "0", "--management-port", "0", "--metrics-port", "0")
    server = subprocess.Popen(
        [sys.executable, "-m", "isplit_plugin", "serve", "--json", *ports],
        cwd=packaged,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        assert line, "isplit serve ended before it was ready"
        yield json.loads(line)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 143
        server.stdout.close()


def test_predict_and_recommend(packaged: Path, served: dict[str, Any]) -> None:
    server = ("--url", served["inference_url"], "--token-file", served["key_file"])
    photos = ("photos/red/0.png", "photos/blue/1.png")
    head = ("--model", "toy", "--head", "model_store/toy.head.zip")
    whole = json.loads(
        isplit(packaged, "predict", *photos, *head, *server, "--cut", "output", "--json")
    )
    for cut in ("1:fp32", "3:uint8+zstd", "input:fp32"):
        command = ("predict", *photos, *head, *server, "--cut", cut, "--json")
        rows = json.loads(isplit(packaged, *command))
        assert [r["label"] for r in rows] == [r["label"] for r in whole]
        assert {r["cut"] for r in rows} == {cut}
    advice = json.loads(
        isplit(packaged, "recommend", "toy", *server, "--bandwidth-mbps", "2", "--json")
    )
    assert advice["model"] == "toy"
    assert advice["use"]["verdict"] == "picked"
    text = isplit(packaged, "recommend", "toy", *server, "--classes", "0,2")
    assert "What to use now" in text
    assert "red 50%" in text
    by_number, by_name = (
        json.loads(isplit(packaged, "recommend", "toy", *server, "--classes", classes, "--json"))
        for classes in ("0,2", "red,2")
    )
    assert by_name["classes"] == by_number["classes"]
    assert {c["label"] for c in by_name["classes"] if c["weight"]} == {"red", "blue"}


def test_a_taken_port_is_one_clear_line_before_java_starts(
    packaged: Path, served: dict[str, Any]
) -> None:
    for name, host in (("inference", "inference_url"), ("management", "management_url")):
        taken = served[host].rpartition(":")[2]
        ports = {"inference": "0", "management": "0", "metrics": "0"} | {name: taken}
        options = [word for key, port in ports.items() for word in (f"--{key}-port", port)]
        said = isplit(packaged, "serve", "--workdir", "second", *options, code=5)
        lines = said.splitlines()
        assert lines[0] == "starting TorchServe ..."
        assert len(lines) == 2, said
        assert f"{name}_port: 127.0.0.1:{taken} is taken" in lines[1]
        assert f"--{name}-port N" in lines[1]
    assert not (packaged / "second" / "torchserve.log").exists()  # no server ever ran
    forwarder = ["--forward", "--forward-port", served["inference_url"].rpartition(":")[2]]
    said = isplit(packaged, "serve", "--workdir", "second", *forwarder, code=5)
    assert "forward_port: 127.0.0.1:" in said
    assert "--forward-port N" in said


def test_wrong_names_are_told_the_right_ones(packaged: Path, served: dict[str, Any]) -> None:
    server = ("--url", served["inference_url"], "--token-file", served["key_file"])
    assert "toy" in isplit(packaged, "recommend", "tyo", *server, code=3)
    head = ("--model", "toy", "--head", "model_store/toy.head.zip")
    message = isplit(packaged, "predict", "photos/red/0.png", *head, *server, "--cut", "9", code=3)
    assert "'9'" in message
    message = isplit(packaged, "recommend", "toy", *server, "--classes", "pink", code=3)
    assert "unknown class 'pink'; known: red, green, blue" in message
    no_token = ("--url", served["inference_url"], "--token", "wrong")
    assert "token" in isplit(packaged, "recommend", "toy", *no_token, code=4).lower()


def test_one_unreadable_photo_does_not_hide_the_others(
    packaged: Path, served: dict[str, Any]
) -> None:
    (packaged / "broken.jpg").write_bytes(b"no photo")
    server = ("--url", served["inference_url"], "--token-file", served["key_file"])
    head = ("--model", "toy", "--head", "model_store/toy.head.zip")
    command = [
        sys.executable,
        "-m",
        "isplit_plugin",
        "predict",
        "broken.jpg",
        "photos/red/0.png",
        *head,
        *server,
        "--json",
    ]
    done = subprocess.run(
        command, cwd=packaged, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 3
    rows = json.loads(done.stdout)
    assert rows[0]["code"] == "not_an_image"
    assert rows[1]["label"] in ("red", "green", "blue")
