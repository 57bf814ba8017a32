"""Two trained bottlenecks of the toy network, and the photos they were trained and measured on."""

from __future__ import annotations

from pathlib import Path

import pytest

from isplit_plugin.bottleneck import Bottleneck, Budget, Photos, train_bottlenecks
from isplit_plugin.network import calibration_folder
from toys.bottleneck import CLASSES, PRE, toy_network, write_photos

CODECS = ("fp32", "uint8", "q4+rle")


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
    """Two trained bottlenecks; the second with the network around it trained too."""
    common = {"preprocessing": PRE, "test": test_photos, "codecs": CODECS}
    net, budget = toy_network(), Budget(epochs=6, batch_size=16, lr=1e-2)
    [plain] = train_bottlenecks(net, ["0"], train_photos, budget=budget, **common)
    whole = Budget(epochs=3, finetune_epochs=2, batch_size=16, lr=1e-2)
    [tuned] = train_bottlenecks(net, ["1"], train_photos, budget=whole, **common)
    return [plain, tuned]
