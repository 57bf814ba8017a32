"""Importance of all split points: in one pass, compared with captum and with forward + backward."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil
import torch
import torchvision
from captum.attr import LayerGradCam

from isplit_plugin.network import CapturedNetwork, capture, cpu_threads

from .harness import Row, against, interleaved, row

NETWORKS = ("resnet50", "vgg16")


def run(quick: bool = False) -> list[Row]:
    """Rows for ResNet-50 and VGG16 at 224 pixels, batch 1, one thread."""
    rows: list[Row] = []
    with cpu_threads(1):
        for name in NETWORKS:
            rows += _time_rows(name, quick)
            if not quick:
                rows.append(_memory_row(name))
    return rows


def _time_rows(name: str, quick: bool) -> list[Row]:
    model, net, x = _network(name)
    points = _module_points(model, net)

    def importance() -> object:
        return net.importance(x)

    jobs: dict[str, Callable[[], object]] = {
        "ours": importance,
        "forward + backward": lambda: _forward_backward(model, x),
        "forward": lambda: model(x),
    }
    times = interleaved(jobs, rounds=3 if quick else 9)
    # captum takes one forward and one backward pass for every layer, so it runs few times.
    layered = interleaved(
        {"ours": importance, "captum": lambda: _captum(model, points, x)},
        rounds=1 if quick else 3,
        warmup=0,
    )
    title = f"{name}: importance, {len(net.split_points)} points"
    captum_title = f"{name}: captum, {len(points)} layers"
    captum = against(captum_title, layered, "captum", "ours", expected=">= 10")
    return [
        against(title, times, "ours", "forward + backward", expected="<= 1.3"),
        against(title, times, "ours", "forward"),
        {**captum, "points_ours": len(net.split_points)},
    ]


def _memory_row(name: str) -> Row:
    importance = _peak_memory(name, "importance")
    forward_backward = _peak_memory(name, "forward + backward")
    return row(
        f"{name}: peak memory added by importance",
        importance,
        "MB",
        rival="forward + backward",
        rival_value=forward_backward,
        ratio=importance / forward_backward,
    )


def _peak_memory(name: str, job: str) -> float:
    """:func:`peak_memory_mb`, in a fresh process."""
    code = (
        "import sys; from benchmarks.importance import peak_memory_mb; "
        "print(peak_memory_mb(*sys.argv[1:]))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, name, job], capture_output=True, text=True, check=True
    )
    return float(process.stdout)


def peak_memory_mb(name: str, job: str) -> float:
    """MB that a job adds to this process's resident memory at its peak, read every millisecond."""
    torch.set_num_threads(1)
    model, net, x = _network(name)
    process = psutil.Process()
    before = process.memory_info().rss
    peak = before
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if job == "importance":
        net.importance(x)
    else:
        _forward_backward(model, x)
    done.set()
    watcher.join()
    return (peak - before) / 1e6


def _network(name: str) -> tuple[torch.nn.Module, CapturedNetwork, torch.Tensor]:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(1, 3, 224, 224)
    net = capture(model, x)
    return model.requires_grad_(False), net, x


def _module_points(model: torch.nn.Module, net: CapturedNetwork) -> list[str]:
    """The split points that are outputs of modules, which captum can hook."""
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
