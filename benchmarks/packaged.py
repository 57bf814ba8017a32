"""Archives for benchmarks with a real TorchServe: EfficientNet-Lite0, and a handler that does
nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from isplit_plugin.demo.photos import labelled_photos
from isplit_plugin.network import capture, load_network, profile
from isplit_plugin.serving.packaging import package

SPEC: Final = "isplit_plugin.network.zoo:efficientnet_lite0"
POINTS: Final = ("_blocks.5", "_blocks.12")
_DOES_NOTHING: Final = """
def handle(data, context):
    return None if data is None else [b"ok"] * len(data)
"""


def package_lite0(
    model_store: Path,
    configs: Mapping[str, Mapping[str, Any]],
    points: Iterable[str] = POINTS,
) -> dict[str, Path]:
    """Archives of one network under several names; their head bundles by name.

    ``configs``: by name, what each archive changes in the shipped ``model-config.yaml``.
    """
    loaded = load_network(SPEC)
    net = capture(loaded.model, loaded.example_input)
    points = list(points)
    measured = profile(
        net,
        [(photo.path, photo.class_id) for photo in labelled_photos()[:4]],
        preprocessing=loaded.preprocessing,
        classes=loaded.classes,
        model=next(iter(configs)),
        split_points=points,
        codecs=("uint8+zstd",),
    )
    return {
        name: package(
            net,
            profile=measured,
            preprocessing=loaded.preprocessing,
            classes=loaded.classes,
            model=name,
            deployed=points,
            config=config,
            include_output=False,
            out_dir=model_store,
        ).bundle
        for name, config in configs.items()
    }


def do_nothing(
    folder: Path, model_store: Path, *, name: str = "do_nothing", batch_size: int = 1
) -> None:
    """Package a handler that answers without looking at its request."""
    handler = folder / f"{name}_handler.py"
    handler.write_text(_DOES_NOTHING)
    config = folder / f"{name}.yaml"
    config.write_text(f"minWorkers: 1\nmaxWorkers: 1\nbatchSize: {batch_size}\nmaxBatchDelay: 1\n")
    options = {
        "--model-name": name,
        "--version": "1.0",
        "--handler": handler,
        "--config-file": config,
        "--export-path": model_store,
    }
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--force"]
    command += [str(word) for option in options.items() for word in option]
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},
    )


def replace_handler(archive: Path, handler: Path) -> None:
    """Give a packaged model another handler."""
    code = handler.read_bytes()
    with zipfile.ZipFile(archive) as before:
        files = {name: before.read(name) for name in before.namelist()}
    manifest = json.loads(files["manifest.json"])
    manifest["files"]["tail_handler.py"] = hashlib.sha256(code).hexdigest()
    files |= {"tail_handler.py": code, "manifest.json": json.dumps(manifest).encode()}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as after:
        for name, content in files.items():
            after.writestr(name, content)
