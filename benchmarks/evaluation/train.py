"""Training one network of the study, which writes its weights and a JSON file about them.

SGD with Nesterov momentum, a one-cycle learning rate, label smoothing, random shifts, and for
photos random mirror images.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from isplit_plugin.bottleneck import Photos
from isplit_plugin.network import LoadedNetwork, calibration_folder

from .networks import VisionTransformer, build

EPOCHS: Final = {"notmnist": 8, "chest": 10, "tiny": 30, "tiny100": 30}
_PHOTO_BYTES: Final = 32 << 30
_TEST_BATCH: Final = 64
_SEED: Final = "-base"


def result_name(network: str, seed: int) -> str:
    """The name of the files of a base network: ``vgg6_notmnist``, or ``vgg6_notmnist-base1``."""
    return network if seed == 0 else f"{network}{_SEED}{seed}"


def network_of(name: str) -> str:
    """The network and data set of a result: ``vgg6_notmnist`` of ``vgg6_notmnist-base1``."""
    return name.partition(_SEED)[0]


def photos_of(folder: Path, loaded: LoadedNetwork) -> Photos:
    """All photos of a folder, with the network's preprocessing."""
    classes = (folder.parent / "classes.txt").read_text().split()
    files = calibration_folder(folder, classes)
    return Photos(files, loaded.preprocessing, len(classes), max_bytes=_PHOTO_BYTES)


def train(
    network: str,
    data: str,
    folder: Path,
    out: Path,
    *,
    epochs: int,
    seed: int = 0,
    batch_size: int = 64,
    init: Path | None = None,
    device: str = "cpu",
) -> None:
    """Train a network on the photos in ``folder`` and write it to ``out``.

    ``init`` is a file of weights to start from; layers of another shape, such as the classifier,
    start from scratch. With it, the learning rate is a tenth.
    """
    cpu_start = time.process_time()
    wall_start = time.perf_counter()
    loaded = build(network, data)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = loaded.model.to(device).to(memory_format=torch.channels_last).train()
    if init is not None:
        _load_where_shapes_fit(net, init)
    photos = photos_of(folder / "train", loaded)
    test = photos_of(folder / "val", loaded)
    labels = torch.from_numpy(photos.labels)
    batch_size = min(batch_size, len(labels))
    batches = len(labels) // batch_size
    optimizer, schedule = _optimizer(net, epochs * batches, 1.0 if init is None else 0.1)
    class_weights = None
    if data == "chest":  # three in four training images show pneumonia
        class_weights = (len(labels) / (2.0 * torch.bincount(labels).float())).to(device)
    for epoch in range(epochs):
        order = torch.randperm(len(labels), generator=generator)
        total = 0.0
        for rows in torch.split(order[: batches * batch_size], batch_size):
            x = _shifted(photos.tensor(rows.numpy()), data.startswith("tiny"), generator)
            loss = _loss(net, x, labels[rows], class_weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(
            f"{network} {data} epoch {epoch + 1}/{epochs} loss {total / batches:.3f} "
            f"cpu {time.process_time() - cpu_start:.0f} s",
            flush=True,
        )
    facts = {
        "network": network,
        "data": data,
        "epochs": epochs,
        "seed": seed,
        "train_images": len(labels),
        "test_images": len(test),
        "test_accuracy": _accuracy(net.eval(), test, device),
        "device": device,
        "cpu_seconds": round(time.process_time() - cpu_start, 1),
        "wall_seconds": round(time.perf_counter() - wall_start, 1),
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "torch": torch.__version__,
    }
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.cpu().contiguous() for name, tensor in net.state_dict().items()}
    name = result_name(f"{network}_{data}", seed)
    save_file(weights, str(out / f"{name}.safetensors"))
    (out / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts), flush=True)


def _load_where_shapes_fit(net: nn.Module, file: Path) -> None:
    shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
    weights = load_file(file)
    fitting = {name: t.float() for name, t in weights.items() if t.shape == shapes[name]}
    net.load_state_dict(fitting, strict=False)


def _optimizer(
    net: nn.Module, steps: int, scale: float
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """SGD with a one-cycle learning rate; biases and norms have no weight decay.

    AdamW for transformers, which SGD hardly trains.
    """
    parameters = list(net.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 5e-4},
        {"params": [p for p in parameters if p.ndim <= 1]},
    ]
    optimizer: torch.optim.Optimizer
    if isinstance(net, VisionTransformer):
        peak = 0.002 * scale
        optimizer = torch.optim.AdamW(groups, lr=peak)
    else:
        peak = 0.2 * scale
        optimizer = torch.optim.SGD(groups, lr=peak / 2, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=peak, total_steps=steps, pct_start=0.25
    )
    return optimizer, schedule


def _shifted(x: Tensor, mirror: bool, generator: torch.Generator) -> Tensor:
    """The batch shifted by up to an eighth of the image, and half of it mirrored if wanted."""
    reach = x.shape[-1] // 8
    padded = F.pad(x, (reach,) * 4, mode="reflect")
    top, left = (int(v) for v in torch.randint(0, 2 * reach + 1, (2,), generator=generator))
    x = padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    if mirror:
        flip = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    return x


def _loss(net: nn.Module, x: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """Cross-entropy with label smoothing, in mixed precision on CUDA."""
    device = next(net.parameters()).device
    x = x.to(device, memory_format=torch.channels_last)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda"):
        return F.cross_entropy(net(x), labels.to(device), weight=class_weights, label_smoothing=0.1)


def _accuracy(net: nn.Module, test: Photos, device: str) -> float:
    batches = np.array_split(np.arange(len(test)), -(-len(test) // _TEST_BATCH))
    with torch.inference_mode():
        answers = [net(test.tensor(rows).to(device)).argmax(1).cpu() for rows in batches]
    return float((torch.cat(answers) == torch.from_numpy(test.labels)).float().mean())
