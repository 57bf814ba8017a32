"""The file of a bottleneck: what it gives back, and which files are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toys.bottleneck import PRE, toy_model, toy_network

from isplit_plugin.bottleneck import (
    BOTTLENECK_SUFFIX,
    Bottleneck,
    Photos,
    decoder_tail,
    encoder_head,
    load_bottleneck,
)
from isplit_plugin.errors import ArtifactError, NetworkMismatchError, SplitPointError
from isplit_plugin.network import CapturedNetwork, capture

FILE = f"b{BOTTLENECK_SUFFIX}"


@pytest.fixture(scope="module")
def other_network() -> CapturedNetwork:
    """The same layers with other weights."""
    return capture(toy_model(seed=9), torch.zeros(1, *PRE.shape))


@pytest.fixture(scope="module")
def small_network() -> CapturedNetwork:
    """The same layers with smaller activations."""
    shape = dataclasses.replace(PRE, crop=(12, 12)).shape
    return capture(toy_model(), torch.zeros(1, *shape))


def test_a_file_gives_the_same_bottleneck_back(
    bottleneck: Bottleneck, test_photos: Photos, tmp_path: Path
) -> None:
    net = toy_network()
    again = load_bottleneck(bottleneck.save(tmp_path / FILE), net, PRE)
    assert again.describe() == bottleneck.describe()
    assert again.deployed_name == bottleneck.deployed_name
    x = test_photos.tensor(range(5))
    with torch.inference_mode():
        code = encoder_head(net, bottleneck)(x)
        assert torch.equal(encoder_head(net, again)(x), code)
        assert torch.equal(decoder_tail(net, again)(code), decoder_tail(net, bottleneck)(code))
    assert code.shape == (5, *bottleneck.code_shape)


def test_other_networks_are_refused(
    bottleneck: Bottleneck,
    other_network: CapturedNetwork,
    small_network: CapturedNetwork,
    tmp_path: Path,
) -> None:
    path = bottleneck.save(tmp_path / FILE)
    with pytest.raises(NetworkMismatchError, match=str(path)):
        load_bottleneck(path, other_network, PRE)
    with pytest.raises(NetworkMismatchError, match="of shape"):
        load_bottleneck(path, small_network)


def test_files_that_are_no_bottlenecks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        load_bottleneck(tmp_path / "none", toy_network())
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ArtifactError, match="not a file of this kind"):
        load_bottleneck(tmp_path / "text", toy_network())


def test_changed_files_are_refused(bottlenecks: list[Bottleneck], tmp_path: Path) -> None:
    net = toy_network()
    path = bottlenecks[0].save(tmp_path / FILE)
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["isplit_bottleneck"])

    def changed(changes: dict[str, Any], tensors: dict[str, torch.Tensor] = tensors) -> Path:
        save_file(tensors, tmp_path / "bad", {"isplit_bottleneck": json.dumps(header | changes)})
        return tmp_path / "bad"

    load_bottleneck(changed({}), net)
    with pytest.raises(ArtifactError, match="format 1 or older"):
        load_bottleneck(changed({"format": 2}), net)
    with pytest.raises(ArtifactError, match="not a bottleneck"):
        load_bottleneck(changed({"measurements": [{"codec": "uint8"}]}), net)
    [*_, last] = header["measurements"]
    with pytest.raises(ArtifactError, match="0 <= agreeing <= images"):
        load_bottleneck(changed({"measurements": [last | {"agreeing": [99, 0, 0]}]}), net)
    with pytest.raises(ArtifactError, match="do not fit"):
        load_bottleneck(changed({"width": 2}), net)
    with pytest.raises(SplitPointError, match="stride"):
        load_bottleneck(changed({"stride": 3}), net)
    fewer = {name: t for name, t in tensors.items() if not name.endswith("weight")}
    with pytest.raises(ArtifactError, match="do not fit"):
        load_bottleneck(changed({}, fewer), net)
