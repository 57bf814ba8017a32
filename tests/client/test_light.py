"""The client is light: what importing it loads, and a device that has nothing else installed."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from toys.client import Server, photo, scores_of

from isplit_plugin import image

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "torchvision",
    "sqlalchemy",
    "ts",
    "onnxruntime",
    "onnx",
    "requests",
    "urllib3",
    "matplotlib",
    "yaml",
)


def test_importing_the_client_loads_no_engine_and_no_server() -> None:
    code = f"import sys, isplit_plugin.client; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


DEVICE = """
import importlib.util, json, sys
import numpy as np
import isplit_plugin.client
from isplit_plugin.client import SplitClient

plan = json.loads(sys.argv[1])
out = {"installed": [m for m in ("torch", "sqlalchemy", "ts", "onnx", "scipy") if importlib.util.find_spec(m)]}
picture = np.array(plan["picture"], np.uint8)
with SplitClient(plan["url"], model="toy", head=plan["head"], raw_scores=True) as client:
    for cut in plan["cuts"]:
        prediction = client.predict(picture, cut)
        out[prediction.split_point] = [prediction.label, prediction.scores.tolist(), prediction.bytes_sent]
print(json.dumps(out))
"""


@pytest.mark.slow
def test_a_device_with_nothing_but_the_client(tmp_path: Path, bundle: Path, server: Server) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    pins = ["-c", str(constraints)] if constraints.exists() else []
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *pins,
        f"{ROOT}[onnx]",
    ]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    colour = photo(51, 204, 0)
    plan = {
        "url": server.url,
        "head": str(bundle),
        "picture": colour.tolist(),
        "cuts": ["output", "pool:fp32", "double:uint8+zstd", "input:jpeg@90"],
    }
    # Isolated and elsewhere: the installed package runs, not the checkout.
    command = [str(python), "-I", "-W", "error", "-c", DEVICE, json.dumps(plan)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert out.pop("installed") == []
    expected = scores_of(image.preprocess(colour, server.state.manifest.preprocessing)[None])[0]
    for split_point, (label, scores, sent) in out.items():
        assert label == "green"
        np.testing.assert_allclose(scores, expected, atol=0.1)
        assert (sent == 0) == (split_point == "output")
    assert len(out) == 4
