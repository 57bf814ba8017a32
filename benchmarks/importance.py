"""Importance of all split points: ours in one pass, against captum layer by layer and against forward + backward."""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import Any

import torch
import torchvision
from captum.attr import LayerGradCam

from isplit_plugin.network import CapturedNetwork, capture

from .harness import Row, against, interleaved, row


def _network(name: str) -> tuple[torch.nn.Module, CapturedNetwork, torch.Tensor]:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(1, 3, 224, 224)
    return model, capture(model, x), x


def _module_points(model: torch.nn.Module, net: CapturedNetwork) -> list[str]:
    """Split points that are a module's output, so that captum can hook them; in-place modules would overwrite them."""
    modules = dict(model.named_modules())
    return [p.name for p in net.split_points if p.name in modules and len(p.shape) == 3]


def _captum(model: torch.nn.Module, points: list[str], x: torch.Tensor) -> None:
    modules = dict(model.named_modules())
    target = int(model(x).argmax())
    for name in points:
        LayerGradCam(model, modules[name]).attribute(x, target=target, relu_attributions=True)


def _forward_backward(model: torch.nn.Module, x: torch.Tensor) -> None:
    leaf = x.clone().requires_grad_(True)
    model(leaf).max().backward(inputs=[leaf])


_PEAK = """
import sys, threading, time
import psutil, torch
torch.set_num_threads(1)
from benchmarks.importance import _forward_backward, _network
model, net, x = _network(sys.argv[1])
model.requires_grad_(False)
job = {"importance": lambda: net.importance(x), "forward + backward": lambda: _forward_backward(model, x)}[sys.argv[2]]
process, done, peak = psutil.Process(), threading.Event(), 0
before = process.memory_info().rss
def watch():
    global peak
    while not done.is_set():
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
job()
done.set()
watcher.join()
print((peak - before) / 1e6)
"""


def peak_memory(name: str, job: str) -> float:
    """MB that one job adds to the resident memory of a fresh process at its peak, looked at every millisecond."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, name, job], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def run(quick: bool = False) -> list[Row]:
    """Rows for ResNet-50 and VGG16 at 224 pixels, batch 1, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[Row] = []
    try:
        for name in ("resnet50", "vgg16"):
            model, net, x = _network(name)
            model.requires_grad_(False)
            points = _module_points(model, net)
            jobs: dict[str, Any] = {
                "ours": lambda net=net, x=x: net.importance(x),
                "forward + backward": lambda model=model, x=x: _forward_backward(model, x),
                "forward": lambda model=model, x=x: model(x),
            }
            times = interleaved(jobs, rounds=3 if quick else 9)
            # captum runs once or twice: it takes a forward and a backward pass for every layer.
            layered = interleaved(
                {"ours": jobs["ours"], "captum": lambda m=model, p=points, x=x: _captum(m, p, x)},
                rounds=1 if quick else 3,
                warmup=0,
            )
            count = len(net.split_points)
            rows += [
                against(
                    f"{name}: importance, {count} points",
                    times,
                    "ours",
                    "forward + backward",
                    expected="<= 1.3",
                ),
                against(f"{name}: importance, {count} points", times, "ours", "forward"),
                {
                    **against(
                        f"{name}: captum, {len(points)} layers",
                        layered,
                        "captum",
                        "ours",
                        expected=">= 10",
                    ),
                    "points_ours": count,
                },
            ]
            if not quick:
                peaks = {
                    job: peak_memory(name, job) for job in ("importance", "forward + backward")
                }
                rows.append(
                    row(
                        f"{name}: peak memory added by importance",
                        peaks["importance"],
                        "MB",
                        rival="forward + backward",
                        rival_value=peaks["forward + backward"],
                        ratio=peaks["importance"] / peaks["forward + backward"],
                    )
                )
            assert statistics.median(times["ours"]) > 0
    finally:
        torch.set_num_threads(threads)
    return rows
