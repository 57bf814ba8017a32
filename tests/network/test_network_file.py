"""The network hash, and the file of a captured network."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from toys.network import Branches, Residual, Transformer, seeded

from isplit_plugin.errors import ArtifactError, SplitPointError
from isplit_plugin.network import CapturedNetwork, capture
from isplit_plugin.schema import Preprocessing

PRE = Preprocessing(crop=(6, 6))
IMAGE = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net() -> CapturedNetwork:
    return capture(seeded(Residual), IMAGE)


def test_the_hash_is_the_same_in_another_process(net: CapturedNetwork) -> None:
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1])\n"
        "from toys.network import Residual, seeded\n"
        "from isplit_plugin.network import capture\n"
        "from isplit_plugin.schema import Preprocessing\n"
        "net = capture(seeded(Residual), torch.zeros(3, 3, 6, 6))\n"
        "print(net.network_hash(Preprocessing(crop=(6, 6))))"
    )
    folder = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == net.network_hash(PRE)
    assert len(net.network_hash(PRE)) == 64


def test_the_hash_tells_networks_apart(net: CapturedNetwork) -> None:
    class Wider(Residual):
        """The same weights in another graph."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    class Padded(Residual):
        """The same operators with another argument."""

        def __init__(self) -> None:
            super().__init__()
            self.stem.padding = (2, 2)

    one_bit = seeded(Residual)
    with torch.no_grad():
        bias = one_bit.get_parameter("fc.bias")
        bias[0] = torch.nextafter(bias[0], torch.tensor(9.0))
    buffer = seeded(Residual)
    buffer.get_buffer("layers.0.bn.running_mean")[0] += 1e-3
    others = [
        one_bit,
        buffer,
        seeded(Wider),
        seeded(Padded),
        seeded(Branches),
        seeded(Residual).double(),
    ]
    hashes = {net.network_hash(PRE), net.network_hash(replace(PRE, mean=(0.5, 0.5, 0.5)))}
    hashes |= {
        capture(other, IMAGE.to(next(other.parameters()).dtype)).network_hash(PRE)
        for other in others
    }
    assert len(hashes) == 2 + len(others)


def test_the_hash_ignores_what_does_not_matter(net: CapturedNetwork) -> None:
    trained = seeded(Residual).train()
    trained.requires_grad_(False)
    assert capture(trained, IMAGE).network_hash(PRE) == net.network_hash(PRE)
    laid_out = seeded(Residual).to(memory_format=torch.channels_last)
    assert capture(laid_out, IMAGE).network_hash(PRE) == net.network_hash(PRE)


@pytest.mark.parametrize(
    ("factory", "shape"),
    [(Residual, (3, 6, 6)), (Transformer, (3, 8, 8)), (Branches, (3, 5, 5))],
)
def test_a_saved_network_is_the_same_network(
    factory: type[nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    model = seeded(factory)
    if factory is Residual:
        model = model.to(memory_format=torch.channels_last)
    x = torch.randn(3, *shape)
    net = capture(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.save(tmp_path / "net.pt2")
        again = CapturedNetwork.load(tmp_path / "net.pt2")
    assert again.split_points == net.split_points
    assert again.network_hash(PRE) == net.network_hash(PRE)
    assert (again.importance(x).values == net.importance(x).values).all()
    with torch.no_grad():
        assert torch.equal(again.model(x), model(x))
        for point in net.split_points:
            head, tail = again.bisect(point.name)
            assert torch.equal(tail(head(x).contiguous()), model(x))
    if factory is Branches:
        with pytest.raises(SplitPointError, match="stem, left"):
            again.split_point("left")
    again.save(tmp_path / "again.pt2")
    assert CapturedNetwork.load(tmp_path / "again.pt2").network_hash(PRE) == net.network_hash(PRE)


def test_a_saved_network_holds_no_photo(tmp_path: Path) -> None:
    photo = torch.full((1, 3, 6, 6), 0.123456789)
    net = capture(seeded(Residual), photo)
    net.save(tmp_path / "net.pt2")
    pattern = photo[0, 0, 0, :2].numpy().tobytes()
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        assert all(pattern not in archive.read(name) for name in archive.namelist())


def test_files_that_are_no_captured_network(net: CapturedNetwork, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        CapturedNetwork.load(tmp_path / "missing.pt2")
    (tmp_path / "text.pt2").write_text("not a zip")
    with pytest.raises(ArtifactError, match=r"text\.pt2: expected a captured network"):
        CapturedNetwork.load(tmp_path / "text.pt2")
    foreign = torch.export.export(nn.Linear(2, 2), (torch.randn(1, 2),))
    torch.export.save(foreign, tmp_path / "foreign.pt2")
    with pytest.raises(ArtifactError, match=r"foreign\.pt2: expected a captured network"):
        CapturedNetwork.load(tmp_path / "foreign.pt2")
    torch.export.save(
        foreign, tmp_path / "newer.pt2", extra_files={"isplit.json": '{"format": 99}'}
    )
    with pytest.raises(ArtifactError, match="expected format 1 or older, got 99"):
        CapturedNetwork.load(tmp_path / "newer.pt2")
    other = '{"format": 1, "names": {"nowhere": ["x"]}, "points": {}}'
    torch.export.save(foreign, tmp_path / "other.pt2", extra_files={"isplit.json": other})
    with pytest.raises(ArtifactError, match="names tensors that its graph does not have: nowhere"):
        CapturedNetwork.load(tmp_path / "other.pt2")
    with pytest.raises(ArtifactError, match="cannot write the network"):
        net.save(tmp_path / "no" / "folder" / "net.pt2")
