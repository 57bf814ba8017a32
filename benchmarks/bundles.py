"""Head bundles: bytes, the time until a device has its first answer, and its memory.

Each network's heads are bundled with weights repeated in every head (as the first version did),
shared, and shared as fp16. A device is a process of its own that opens the bundle and runs one cut;
memory is what that adds to a process that has imported onnxruntime.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from isplit_plugin import image
from isplit_plugin.client import HeadBundle, OnnxHead
from isplit_plugin.files import file_sha256
from isplit_plugin.network import (
    CapturedNetwork,
    LoadedNetwork,
    efficientnet_lite0,
    export_head,
    share_weights,
)
from isplit_plugin.schema import OUTPUT, Cut, Manifest

from . import resnet50
from .harness import Row, row
from .photos import _files

CUTS: Final = {
    "efficientnet-lite0": ("_blocks.1", "_blocks.3", "_blocks.5", "_blocks.9", "_blocks.11"),
    "resnet50": ("layer1", "layer2", "layer3"),
}
_DEVICE: Final = """
import json, sys, time
import numpy as np, onnxruntime, psutil
from isplit_plugin.client import HeadBundle, OnnxHead
path, split_point, size = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
x = np.zeros((1, *size), np.float32)
before, started = psutil.Process().memory_info().rss, time.perf_counter()
bundle = HeadBundle(path)
opened = time.perf_counter()
runtime = OnnxHead(bundle, threads=1)
runtime.run(split_point, x)
ended = time.perf_counter()
rss = psutil.Process().memory_info().rss - before
print(json.dumps([1e3 * (opened - started), 1e3 * (ended - opened), rss / 1e6]))
"""


def run(quick: bool = False) -> list[Row]:
    """Rows of bytes, times and memory; with fp16 of agreement, too."""
    networks: dict[str, LoadedNetwork | None] = {"efficientnet-lite0": efficientnet_lite0()}
    if not quick:
        networks["resnet50"] = resnet50.with_weights()
    rows = []
    for name, loaded in networks.items():
        if loaded is not None:
            with tempfile.TemporaryDirectory() as folder:
                rows += _network(name, loaded, Path(folder), rounds=1 if quick else 7)
    return rows


def _network(name: str, loaded: LoadedNetwork, folder: Path, rounds: int) -> list[Row]:
    net = loaded.capture()
    points = (*CUTS[name], OUTPUT)
    (folder / "exported").mkdir()
    for point in points:
        print(f"bundles: exporting {name} {point}", file=sys.stderr, flush=True)
        export_head(net, point, folder / "exported" / f"{point}.onnx")
    bundles = {kind: _bundle(net, loaded, folder, kind) for kind in ("repeated", "fp32", "fp16")}
    rows = []
    for kind, path in bundles.items():
        size = path.stat().st_size / 1e6
        rows.append(row(f"{name}, {len(points)} heads, {kind}", size, "MB"))
    for point in (points[0], points[2], OUTPUT):
        samples: dict[str, list[list[float]]] = {kind: [] for kind in bundles}
        for _ in range(rounds):  # in turn: a noisy minute hits all of them
            for kind, path in bundles.items():
                samples[kind].append(_device(path, point, net.input_shape))
        for kind, each in samples.items():
            opening, first, memory = (
                statistics.median(column) for column in zip(*each, strict=True)
            )
            label = f"{name} {point}, {kind}"
            rows += [
                row(f"{label}: open the bundle", opening, "ms"),
                row(f"{label}: load the head and run it once", first, "ms"),
                row(f"{label}: memory", memory, "MB"),
            ]
    return [*rows, _agreement(name, loaded, bundles)]


def _bundle(net: CapturedNetwork, loaded: LoadedNetwork, folder: Path, kind: str) -> Path:
    files = folder / kind
    shutil.copytree(folder / "exported", files / "heads")
    manifest = Manifest(
        model="m",
        version="1.0",
        network_hash="0",
        input_shape=net.input_shape,
        preprocessing=loaded.preprocessing,
        classes=loaded.classes,
        split_points=net.split_points,
        deployed=tuple(p.stem for p in (files / "heads").iterdir() if p.stem != OUTPUT),
        codecs=("uint8",),
        default=Cut("input", "file"),
    )
    if kind != "repeated":
        weights, _ = share_weights(
            files / "heads", files / "weights", "fp16" if kind == "fp16" else "fp32"
        )
        manifest = replace(manifest, weights=weights)
    paths = sorted(files.rglob("*.onnx"))
    hashes = {path.relative_to(files).as_posix(): file_sha256(path) for path in paths}
    path = folder / f"{kind}.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("manifest.json", json.dumps(replace(manifest, files=hashes).to_json()))
        for part in paths:
            bundle.write(part, part.relative_to(files).as_posix())
    return path


def _device(path: Path, split_point: str, size: tuple[int, ...]) -> list[float]:
    """Milliseconds to open the bundle, and to run the first head; megabytes."""
    words = [sys.executable, "-c", _DEVICE, str(path), split_point, json.dumps(size)]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    figures: list[float] = json.loads(ended.stdout)
    return figures


def _agreement(name: str, loaded: LoadedNetwork, bundles: dict[str, Path]) -> Row:
    """The share of photos on which the head at `output` with fp16 weights agrees with fp32."""
    tops: dict[str, list[Any]] = {}
    files = _files()
    for kind in ("fp32", "fp16"):
        bundle = HeadBundle(bundles[kind])
        runtime = OnnxHead(bundle, threads=1)
        inputs = (image.preprocess(file, loaded.preprocessing)[None] for file in files)
        tops[kind] = [runtime.run(OUTPUT, x).argmax() for x in inputs]
        bundle.close()
    agreeing = sum(a == b for a, b in zip(*tops.values(), strict=True))
    return row(
        f"{name}: fp16 agrees on {agreeing} of {len(files)} photos", agreeing / len(files), ""
    )
