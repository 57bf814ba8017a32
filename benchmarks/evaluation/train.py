"""Train one network of the study; writes its weights, and a JSON beside them.

SGD with Nesterov momentum, one-cycle learning rate, label smoothing, random shifts (and mirror images for photos).
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from isplit_plugin.bottleneck import Photos
from isplit_plugin.network import LoadedNetwork, calibration_folder

from .networks import build

EPOCHS: Final = {"notmnist": 8, "chest": 10, "tiny": 30, "tiny100": 30}


def photos_of(folder: Path, loaded: LoadedNetwork) -> Photos:
    """All photos of a folder, through the product's preprocessing."""
    classes = (folder.parent / "classes.txt").read_text().split()
    found = calibration_folder(folder, classes)
    return Photos(found, loaded.preprocessing, len(classes), max_bytes=32 << 30)


def shifted(x: Tensor, mirror: bool, generator: torch.Generator) -> Tensor:
    """One random shift for the batch by up to an eighth of the image, and half of the batch mirrored where wanted."""
    reach = x.shape[-1] // 8
    padded = F.pad(x, (reach,) * 4, mode="reflect")
    top, left = (int(v) for v in torch.randint(0, 2 * reach + 1, (2,), generator=generator))
    x = padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    if mirror:
        flip = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    return x


def train(
    network: str,
    data: str,
    folder: Path,
    out: Path,
    *,
    epochs: int,
    seed: int = 0,
    batch: int = 64,
    init: Path | None = None,
    device: str = "cpu",
) -> None:
    """``init``: weights to start from, but for layers of another shape (the classifier); the rate is then a tenth."""
    began, clock = time.process_time(), time.perf_counter()
    loaded = build(network, data)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = loaded.model.to(device, memory_format=torch.channels_last).train()
    if init is not None:
        state, own = load_file(init), net.state_dict()
        net.load_state_dict(
            {n: t.float() for n, t in state.items() if t.shape == own[n].shape}, strict=False
        )
    photos, test = photos_of(folder / "train", loaded), photos_of(folder / "val", loaded)
    y = torch.from_numpy(photos.labels)
    batch = min(batch, len(y))
    steps = epochs * (len(y) // batch)
    scale = 0.1 if init is not None else 1.0
    decay = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decay, "weight_decay": 5e-4}, {"params": rest}],
        lr=0.1 * scale,
        momentum=0.9,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.2 * scale, total_steps=steps, pct_start=0.25
    )
    weight = None
    if data == "chest":  # three in four training images show pneumonia
        weight = (len(y) / (2.0 * torch.bincount(y).float())).to(device)
    half = torch.autocast("cuda", dtype=torch.bfloat16, enabled=device != "cpu")
    for epoch in range(epochs):
        order = torch.randperm(len(y), generator=generator)
        total = 0.0
        for rows in order[: len(y) // batch * batch].split(batch):
            inputs = shifted(photos.tensor(rows.numpy()), data.startswith("tiny"), generator)
            inputs = inputs.to(device, memory_format=torch.channels_last)
            with half:
                loss = F.cross_entropy(
                    net(inputs), y[rows].to(device), weight=weight, label_smoothing=0.1
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(
            f"{network} {data} epoch {epoch + 1}/{epochs} loss {total / (len(y) // batch):.3f} "
            f"cpu {time.process_time() - began:.0f} s",
            flush=True,
        )
    net.eval()
    parts = np.array_split(np.arange(len(test)), -(-len(test) // 64))
    with torch.inference_mode():
        answers = torch.cat([net(test.tensor(rows).to(device)).argmax(1).cpu() for rows in parts])
    accuracy = float((answers == torch.from_numpy(test.labels)).float().mean())
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.cpu().contiguous() for k, v in net.state_dict().items()},
        str(out / f"{network}_{data}.safetensors"),
    )
    facts = {
        "network": network,
        "data": data,
        "epochs": epochs,
        "seed": seed,
        "train_images": len(y),
        "test_images": len(test),
        "test_accuracy": accuracy,
        "device": device,
        "cpu_seconds": round(time.process_time() - began, 1),
        "wall_seconds": round(time.perf_counter() - clock, 1),
        "parameters": sum(p.numel() for p in net.parameters()),
        "torch": torch.__version__,
    }
    (out / f"{network}_{data}.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts), flush=True)
