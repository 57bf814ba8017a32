"""What benchmarks of codes measure on: networks and their cuts, and photos of a folder in random
order. All of it runs on one thread.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import torch

from isplit_plugin import image
from isplit_plugin.network import LoadedNetwork, efficientnet_lite0, load_weights

from . import photos, resnet50
from .evaluation import networks as study

STUDY: Final = "ISPLIT_STUDY"
"""The environment variable with the ``--work`` folder of the study; ``--study`` sets it."""
CUTS: Final = "ISPLIT_CUTS"
"""The environment variable with the cuts, with commas between them; ``--cuts`` sets it."""

_SUFFIXES: Final = (".jpg", ".jpeg", ".png")


def wanted_cuts(default: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The cuts of each network that are to be measured."""
    named = os.environ.get(CUTS)
    if not named:
        return {network: tuple(cuts) for network, cuts in default.items()}
    pairs = [word.strip().split(":", 1) for word in named.split(",")]
    return {
        network: tuple(cut for own, cut in pairs if own == network)
        for network in dict.fromkeys(network for network, _ in pairs)
    }


def networks(
    default: Mapping[str, Sequence[str]],
) -> Iterator[tuple[str, LoadedNetwork, tuple[str, ...]]]:
    """Name, network and cuts of each network that is to be measured and has its weights."""
    for network, cuts in wanted_cuts(default).items():
        loaded = network_named(network)
        if loaded is not None:
            yield network, loaded, cuts


def network_named(name: str) -> LoadedNetwork | None:
    """``efficientnet-lite0``, ``resnet50``, or one of the study such as ``resnet20_notmnist``.

    ``None``, and a line on stderr, where its weights are not at hand.
    """
    if name == "efficientnet-lite0":
        return efficientnet_lite0()
    if name == "resnet50":
        return resnet50.with_weights()
    folder = os.environ.get(STUDY)
    if not folder:
        print(f"no rows of {name}: --study FOLDER, where it is trained", file=sys.stderr)
        return None
    loaded = study.build(*name.rsplit("_", 1))
    load_weights(loaded.model, Path(folder) / "weights" / f"{name}.safetensors")
    return loaded


def drawn_photos(count: int) -> list[Path]:
    """So many photos of the folder, drawn at random, always the same; all if there are fewer.

    None, and a line on stderr, where no folder is named.
    """
    folder = os.environ.get(photos.VARIABLE)
    if not folder:
        print("no photos: --data FOLDER", file=sys.stderr)
        return []
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in _SUFFIXES)
    order = np.random.default_rng(0).permutation(len(files))
    return [files[number] for number in order[:count]]


def inputs(loaded: LoadedNetwork, files: Sequence[Path]) -> torch.Tensor:
    """The network's inputs of these photos, (N, C, H, W)."""
    pre = loaded.preprocessing
    values = [image.normalize(image.crop(file, pre), pre) for file in files]
    return torch.from_numpy(np.stack(values))


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
