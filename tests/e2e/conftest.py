"""One real TorchServe for all tests of this folder: two models, the recommendation endpoint, and a
store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from toys.live_server import Live, Model
from toys.serving import CLASSES, PREPROCESSING, profile_of, toy_network

from isplit_plugin.device_tokens import new_secret, read_secret
from isplit_plugin.network import capture
from isplit_plugin.schema import Preprocessing
from isplit_plugin.serving.launcher import TorchServe
from isplit_plugin.serving.packaging import package
from isplit_plugin.wire import CODECS

RESNET_PREPROCESSING = Preprocessing(crop=(64, 64), resize=64)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.server)


CONFIG = {"isplit": {"sampling": 1.0, "cpu_budget": 1.0}}


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model_store")


@pytest.fixture(scope="session")
def toy(model_store: Path, registered_codec_package: Path) -> Model:
    """A small network that also accepts a codec of another package."""
    net = toy_network()
    torch.manual_seed(3)
    profile = profile_of(
        net,
        torch.randn(12, 3, 16, 16),
        nbytes={("relu1", "fp32"): 1024.0, ("relu2", "uint8"): 130.0},
    )
    built = package(
        net,
        profile=profile,
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        deployed=["relu1", "relu2"],
        codecs=[*CODECS, "bfloat16+zstd"],
        config=CONFIG,
        out_dir=model_store,
    )
    return Model(net, profile, built)


@pytest.fixture(scope="session")
def resnet(model_store: Path) -> Model:
    torch.manual_seed(5)
    net = capture(
        torchvision.models.resnet18(weights=None, num_classes=10).eval(), torch.randn(1, 3, 64, 64)
    )
    classes = [f"class {i}" for i in range(10)]
    sizes = {("layer2", "uint8+zstd"): 4000.0}
    profile = profile_of(
        net,
        torch.randn(6, 3, 64, 64),
        model="resnet18",
        preprocessing=RESNET_PREPROCESSING,
        classes=classes,
        nbytes=sizes,
    )
    built = package(
        net,
        profile=profile,
        preprocessing=RESNET_PREPROCESSING,
        classes=classes,
        deployed=["layer2"],
        config=CONFIG,
        pt2=True,
        include_output=False,
        out_dir=model_store,
    )
    return Model(net, profile, built)


@pytest.fixture(scope="session")
def live(
    toy: Model,
    resnet: Model,
    model_store: Path,
    registered_codec_package: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Live]:
    store_url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'store.db'}"
    names = ["toy.mar", "resnet18.mar", "isplit.mar"]
    secret = new_secret(tmp_path_factory.mktemp("labels") / "secret")
    with TorchServe(
        model_store=model_store,
        models=names,
        store=store_url,
        model_api=True,
        environment={
            "ISPLIT_LABEL_SECRET_FILE": str(secret),
            "PYTHONPATH": os.pathsep.join(
                [str(registered_codec_package), os.environ.get("PYTHONPATH", "")]
            ),
        },
    ) as server:
        yield Live(server, store_url, toy, resnet, read_secret(secret).decode())
