"""Two trained bottlenecks of the toy network, and the photos they were trained and measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isplit_plugin.bottleneck import Bottleneck, Budget, Photos, train_bottlenecks
from isplit_plugin.network import calibration_folder
from toys.bottleneck import CLASSES, PRE, toy_network, write_photos


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("photos")
    return write_photos(root / "train", 30), write_photos(root / "test", 12, seed=1)


@pytest.fixture(scope="session")
def train_photos(folders: tuple[Path, Path]) -> Photos:
    return Photos(calibration_folder(folders[0], CLASSES), PRE, 3)


@pytest.fixture(scope="session")
def test_photos(folders: tuple[Path, Path]) -> Photos:
    return Photos(calibration_folder(folders[1], CLASSES), PRE, 3)


@pytest.fixture(scope="session")
def bottlenecks(train_photos: Photos, test_photos: Photos) -> list[Bottleneck]:
    """One bottleneck in the frozen network, and one with the network fine-tuned around it."""
    shared: dict[str, Any] = {
        "preprocessing": PRE,
        "test": test_photos,
        "codecs": ("fp32", "uint8", "q4+rle+zstd"),
    }
    net = toy_network()
    budget = Budget(epochs=6, batch_size=16, lr=1e-2)
    [frozen] = train_bottlenecks(net, ["0"], train_photos, budget=budget, **shared)
    budget = Budget(epochs=3, finetune_epochs=2, batch_size=16, lr=1e-2)
    [finetuned] = train_bottlenecks(net, ["1"], train_photos, budget=budget, **shared)
    return [frozen, finetuned]


@pytest.fixture(params=[0, 1], ids=["frozen", "finetuned"])
def bottleneck(request: pytest.FixtureRequest, bottlenecks: list[Bottleneck]) -> Bottleneck:
    """Each of the two bottlenecks."""
    chosen: Bottleneck = bottlenecks[request.param]
    return chosen
