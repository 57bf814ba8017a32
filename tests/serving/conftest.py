"""One archive, unpacked once, and a worker that has loaded it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toys.serving import CLASSES, PREPROCESSING, Worker, profile_of, toy_network, unpack

from isplit_plugin.network import CapturedNetwork
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Manifest
from isplit_plugin.serving.packaging import build_archive, make_manifest


@pytest.fixture(scope="session")
def net() -> CapturedNetwork:
    return toy_network()


@pytest.fixture(scope="session")
def profile(net: CapturedNetwork) -> Profile:
    torch.manual_seed(3)
    return profile_of(
        net,
        torch.randn(12, 3, 16, 16),
        nbytes={("relu1", "fp32"): 1024.0, ("relu2", "uint8"): 130.0},
    )


@pytest.fixture(scope="session")
def manifest(net: CapturedNetwork, profile: Profile) -> Manifest:
    made, warnings = make_manifest(
        net,
        model="toy",
        version="1.0",
        profile=profile,
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        deployed=["relu1", "relu2"],
    )
    assert warnings == ()
    return made


@pytest.fixture(scope="session")
def archive(
    net: CapturedNetwork,
    profile: Profile,
    manifest: Manifest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("model_store")
    config = {"isplit": {"sampling": 1.0, "cpu_budget": 1.0}}
    return build_archive(net, manifest=manifest, profile=profile, config=config, out_dir=folder)


@pytest.fixture
def model_dir(archive: Path, tmp_path: Path) -> Path:
    return unpack(archive, tmp_path / "model")


@pytest.fixture
def worker(model_dir: Path, store_url: str) -> Iterator[Worker]:
    loaded = Worker(model_dir)
    yield loaded
    loaded.close()
