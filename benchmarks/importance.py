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


def peak_memory(name: str, job: str) -> float:
    """Peak resident memory in MB of a fresh process that does one job on one network."""
    code = (
        "import resource, sys, torch; torch.set_num_threads(1)\n"
        "from benchmarks.importance import _network, _forward_backward\n"
        f"model, net, x = _network({name!r})\n"
        f"job = {job!r}\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "if job == 'importance': net.importance(x)\n"
        "elif job == 'forward + backward': _forward_backward(model, x)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, before / 1e3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[0])


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
                against(f"{name}: importance, {count} points", times, "ours", "forward + backward", expected="<= 1.3"),
                against(f"{name}: importance, {count} points", times, "ours", "forward"),
                {
                    **against(f"{name}: captum, {len(points)} layers", layered, "captum", "ours", expected=">= 10"),
                    "points_ours": count,
                },
            ]
            if not quick:
                peaks = {job: peak_memory(name, job) for job in ("importance", "forward + backward")}
                rows.append(
                    row(
                        f"{name}: peak memory of importance",
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
