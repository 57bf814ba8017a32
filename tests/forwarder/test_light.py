"""A forwarder loads neither torch nor the store nor TorchServe."""

from __future__ import annotations

import json
import subprocess
import sys


def test_what_the_forwarder_loads() -> None:
    script = (
        "import json, sys; import isplit_plugin.forwarder, isplit_plugin.cli.forward; "
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert "aiohttp" in loaded
    assert not {"torch", "sqlalchemy", "ts", "onnxruntime", "matplotlib"} & loaded
