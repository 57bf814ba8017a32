"""`torchrun -m isplit_plugin profile`: two real processes share the calibration photos."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from isplit_plugin.cli import main
from isplit_plugin.network import load_correctors
from isplit_plugin.profile import Profile
from isplit_plugin.wire import load_transforms

pytestmark = pytest.mark.slow  # each process imports torch

PHOTOS = 23  # three blocks of eight, of which the last is not full
UNREADABLE = 3

FACTORY = """
import os
import torch
from toys.serving import CLASSES, PREPROCESSING, toy_network

def build():
    seed = int(os.environ["RANK"]) if "different" in os.environ.get("TEST_NETWORKS", "") else 0
    torch.manual_seed(seed)
    layers = (
        torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.nn.ReLU6(),
        torch.nn.Conv2d(4, 8, 3, stride=2, padding=1), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(128, len(CLASSES)),
    )
    return torch.nn.Sequential(*layers).eval(), PREPROCESSING, CLASSES, torch.zeros(1, 3, 16, 16)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of five classes, one of which no process can read, and a network."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "shared_toy.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(PHOTOS):
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        file = folder / f"{number:02}.png"
        PIL.Image.fromarray(pixels).resize((16, 16)).save(file)
        lines.append(f"{file.name},{number % 5}")
    (folder / f"{UNREADABLE:02}.png").write_bytes(b"no image")
    (folder / "photos.csv").write_text("\n".join(lines))
    return folder


def words(folder: Path, output: Path, *more: str) -> list[str]:
    files = ["--data", str(folder / "photos.csv"), "-o", str(output), "--no-report"]
    forms = ["--photo-codecs", "jpeg@90", "--codecs", "uint8,q4+zstd,dct", "--loss", "0.2"]
    return ["profile", "--network", "shared_toy:build", *files, *forms, "--threads", "1", *more]


def torchrun(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in two processes."""
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(map(str, (root, root / "tests", folder)))
    variables = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **variables}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "--standalone", "-m", "isplit_plugin", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_two_processes_measure_what_one_measures(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended = torchrun(data, *words(data, tmp_path / "two", "--json", "--corrector-steps", "2"))
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["images"] == PHOTOS - 1  # one document: only one process prints
    monkeypatch.syspath_prepend(str(data))
    assert main(words(data, tmp_path / "one", "--corrector-steps", "2")) == 0
    assert "23 photos" in capsys.readouterr().err
    one, two = (Profile.load(tmp_path / f"{name}.profile.safetensors") for name in ("one", "two"))
    assert len(one.class_ids) > 1
    np.testing.assert_array_equal(two.class_ids, one.class_ids)
    np.testing.assert_array_equal(two.count, one.count)
    for name in ("mean0", "sum1", "sum2", "comoment"):
        scale = np.abs(getattr(one, name)).max()
        np.testing.assert_allclose(
            getattr(two, name), getattr(one, name), rtol=1e-9, atol=1e-9 * scale
        )
    assert two.accuracy == one.accuracy
    assert [m.cut for m in two.measurements] == [m.cut for m in one.measurements]
    assert {m.codec for m in one.measurements} >= {"dct", "uint8", "jpeg"}
    for ours, theirs in zip(two.measurements, one.measurements, strict=True):
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.agreeing, theirs.agreeing)
        assert ours.nbytes == pytest.approx(theirs.nbytes, rel=1e-9)
        assert ours.under_loss == pytest.approx(theirs.under_loss, rel=1e-9)
        assert ours.encode_ms >= 0
    assert two.provenance["processes"] == "2"
    # Each trains at its own split points, and all have all correctors.
    own = {t.split_point: t for t in load_transforms(tmp_path / "two.transforms.safetensors")}
    correctors = load_correctors(tmp_path / "two.correctors.safetensors", own)
    assert set(correctors) == set(own) == set(two.correctors)
    assert len(own) > 1
    assert list(json.loads(ended.stdout)["trained"]) == list(correctors)
    assert two.provenance["skipped_names"] == one.provenance["skipped_names"]
    pairs = zip(
        *(load_transforms(tmp_path / f"{name}.transforms.safetensors") for name in ("one", "two")),
        strict=True,
    )
    for ours, theirs in pairs:
        assert ours.split_point == theirs.split_point
        np.testing.assert_allclose(ours.encoder, theirs.encoder, rtol=2e-3, atol=1e-4)
        assert ours.step == pytest.approx(theirs.step, rel=1e-6)
        assert (ours.low, ours.high) == (theirs.low, theirs.high)


def test_a_process_that_fails_ends_all_of_them_and_says_why(data: Path, tmp_path: Path) -> None:
    lines = (data / "photos.csv").read_text().splitlines()
    # Photo 12 is in the second block, which the second process has.
    (data / "unlabelled.csv").write_text("\n".join([*lines[:12], lines[12][:6], *lines[13:]]))
    arguments = words(data, tmp_path / "toy", "--target", "true", "--no-transforms")
    arguments[arguments.index(str(data / "photos.csv"))] = str(data / "unlabelled.csv")
    ended = torchrun(data, *arguments)
    assert ended.returncode != 0
    assert "isplit profile: process 1 of 2 on " in ended.stderr
    assert "target 'true' needs the class of every image; 1 have none" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_an_error_before_the_work_is_said_once(data: Path, tmp_path: Path) -> None:
    arguments = words(data, tmp_path / "toy")
    ended = torchrun(data, *arguments, TEST_NETWORKS="different")
    assert ended.returncode != 0
    assert ended.stderr.count("all processes must measure the same: the first has isplit") == 1
    assert "process 1 of 2 on" in ended.stderr
