"""Train one network of the study from scratch on one core; writes its weights, and a JSON beside them.

SGD with Nesterov momentum, one-cycle learning rate, label smoothing, random shifts (and mirror images for photos).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from isplit_plugin import image
from isplit_plugin.network.calibration import calibration_folder

from .networks import BUILDERS, DATA_SETS, build

EPOCHS: Final = {"notmnist": 8, "chest": 10, "tiny": 30}


def pixels(folder: Path, data: str) -> tuple[Tensor, Tensor]:
    """All photos of a folder through the product's preprocessing, (N, C, H, W) float32, and their class ids."""
    pre = DATA_SETS[data][0]
    classes = (folder.parent / "classes.txt").read_text().split()
    found = calibration_folder(folder, classes)
    arrays: list[npt.NDArray[np.float32]] = [image.preprocess(path, pre) for path, _ in found]
    return torch.from_numpy(np.stack(arrays)), torch.tensor([label for _, label in found])


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


def train(network: str, data: str, folder: Path, out: Path, *, epochs: int, seed: int = 0, batch: int = 64) -> None:
    began = time.process_time()
    loaded = build(network, data)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = loaded.model.train().to(memory_format=torch.channels_last)
    x, y = pixels(folder / "train", data)
    test_x, test_y = pixels(folder / "val", data)
    steps = epochs * (len(x) // batch)
    decay = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decay, "weight_decay": 5e-4}, {"params": rest}], lr=0.1, momentum=0.9, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps, pct_start=0.25)
    weight = None
    if data == "chest":  # three in four training images show pneumonia
        weight = len(y) / (2.0 * torch.bincount(y).float())
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        total = 0.0
        for rows in order[: len(x) // batch * batch].split(batch):
            inputs = shifted(x[rows], data == "tiny", generator).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(net(inputs), y[rows], weight=weight, label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(
            f"{network} {data} epoch {epoch + 1}/{epochs} loss {total / (len(x) // batch):.3f} "
            f"cpu {time.process_time() - began:.0f} s",
            flush=True,
        )
    net.eval()
    with torch.inference_mode():
        right = torch.cat([net(part).argmax(1) for part in test_x.split(256)]) == test_y
    accuracy = float(right.float().mean())
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, str(out / f"{network}_{data}.safetensors"))
    facts = {
        "network": network,
        "data": data,
        "epochs": epochs,
        "seed": seed,
        "train_images": len(x),
        "test_images": len(test_x),
        "test_accuracy": accuracy,
        "cpu_seconds": round(time.process_time() - began, 1),
        "parameters": sum(p.numel() for p in net.parameters()),
        "torch": torch.__version__,
    }
    (out / f"{network}_{data}.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(BUILDERS))
    parser.add_argument("data", choices=sorted(DATA_SETS))
    parser.add_argument("--work", type=Path, required=True, help="folder with the prepared image folders")
    parser.add_argument("--epochs", type=int, help="default: " + ", ".join(f"{k} {v}" for k, v in EPOCHS.items()))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    epochs = options.epochs or EPOCHS[options.data]
    train(
        options.network,
        options.data,
        options.work / options.data,
        options.work / "weights",
        epochs=epochs,
        seed=options.seed,
    )


if __name__ == "__main__":
    main()
