"""A codec from another installed package is known to a profile, a client and a tail worker.

Client and worker run in processes of their own, which know the package by its entry point alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch
from torch import nn

from isplit_plugin.network import capture, profile
from isplit_plugin.schema import Cut, Manifest, Preprocessing
from isplit_plugin.wire import codecs

CODEC = "bfloat16+zstd"

CLIENT = """
from isplit_plugin.wire import InferRequest, codec_names, encode_activation, message

tensor = encode_activation(ACTIVATION, CODEC)
body, length = message.encode_infer_request(InferRequest((tensor,)))
(FOLDER / "body").write_bytes(body)
(FOLDER / "length").write_text(str(length))
assert {"bfloat16", CODEC} < set(codec_names())
"""

WORKER = """
import json
from isplit_plugin.schema import Manifest
from isplit_plugin.wire import decode_request

manifest = Manifest.from_json(json.loads((FOLDER / "manifest.json").read_text()))
body = (FOLDER / "body").read_bytes()
length = int((FOLDER / "length").read_text())
request = decode_request(body, length, "application/octet-stream", manifest)
numpy.testing.assert_allclose(request.activation(), ACTIVATION, rtol=2**-8)
"""

PREAMBLE = f"""
import sys
from pathlib import Path
import numpy
CODEC = {CODEC!r}
FOLDER = Path(sys.argv[1])
ACTIVATION = numpy.linspace(-1, 3, 200, dtype="float32").reshape(2, 4, 5, 5)
"""


def run(program: str, folder: Path, *extra_path: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([*map(str, extra_path), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + program, str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture
def folder(tmp_path: Path, manifest: Manifest) -> Path:
    served = replace(manifest, codecs=(*manifest.codecs, CODEC))
    (tmp_path / "manifest.json").write_text(json.dumps(served.to_json()))
    return tmp_path


def test_a_client_and_a_tail_worker_know_the_codec(codec_package: Path, folder: Path) -> None:
    for program in (CLIENT, WORKER):
        result = run(program, folder, codec_package)
        assert result.returncode == 0, result.stderr


def test_without_the_package_the_codec_is_unknown(codec_package: Path, folder: Path) -> None:
    assert run(CLIENT, folder, codec_package).returncode == 0
    for program in (CLIENT, WORKER):
        result = run(program, folder)
        assert result.returncode == 1
        assert f"unknown codec '{CODEC}'" in result.stderr


def test_a_profile_measures_the_codec(codec_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(codec_package)
    monkeypatch.setattr(codecs._CODECS, "_objects", dict(codecs._CODECS._objects))
    monkeypatch.setattr(codecs._CODECS, "_loaded", False)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    result = profile(
        capture(model, torch.zeros(1, 3, 12, 12)),
        [(PIL.Image.new("RGB", (12, 12), color), None) for color in ("red", "green")],
        preprocessing=Preprocessing(crop=(12, 12)),
        classes=("a", "b"),
        device="cpu",
        threads=1,
        split_points=["0"],
        codecs=["bfloat16", CODEC],
    )
    plain = result.measurement(Cut("0", "bfloat16"))
    compressed = result.measurement(Cut("0", CODEC))
    assert plain is not None
    assert compressed is not None
    assert 200 < plain.nbytes - (2 * 4 * 10 * 10 + 4) < 270  # the JSON of the request
    assert compressed.agreeing.sum() == 2
