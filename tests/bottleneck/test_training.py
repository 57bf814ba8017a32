"""A run over several split points: its files, how it resumes, and what is refused before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toys.bottleneck import PRE, toy_network, toy_photos
from toys.processors import PROCESSORS

from isplit_plugin.bottleneck import (
    BOTTLENECK_SUFFIX,
    AutoencoderConfig,
    Bottleneck,
    Budget,
    EpochResult,
    Photos,
    train_bottlenecks,
)
from isplit_plugin.errors import DataError, SplitPointError
from isplit_plugin.network import on_device

NAMES = ["0~n1s2d1", "2~n2s2d1"]


@pytest.fixture(scope="module")
def photos() -> Photos:
    return toy_photos(30)


def run(directory: Path, photos: Photos, **options: Any) -> list[Bottleneck]:
    defaults: dict[str, Any] = {"budget": Budget(epochs=2, batch_size=16), "codecs": ("uint8",)}
    return train_bottlenecks(
        toy_network(),
        ["0", "2"],
        photos,
        preprocessing=PRE,
        test=photos,
        config=AutoencoderConfig(stride=2, depth=1),
        directory=directory,
        **(defaults | options),
    )


def file_names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("processor", PROCESSORS)
def test_training_works_on_every_processor(photos: Photos, tmp_path: Path, processor: str) -> None:
    """On a CUDA device the forward passes run in mixed precision."""
    made = train_bottlenecks(
        on_device(toy_network(), processor),
        ["0"],
        photos,
        preprocessing=PRE,
        test=photos,
        config=AutoencoderConfig(stride=2, depth=1),
        directory=tmp_path,
        budget=Budget(epochs=2, batch_size=16),
        codecs=("uint8",),
    )
    assert [one.name for one in made] == NAMES[:1]
    assert file_names(tmp_path) == [f"{NAMES[0]}{BOTTLENECK_SUFFIX}"]


def test_an_interrupted_run_resumes(photos: Photos, tmp_path: Path) -> None:
    uninterrupted = run(tmp_path / "uninterrupted", photos)
    assert [bottleneck.name for bottleneck in uninterrupted] == NAMES
    assert file_names(tmp_path / "uninterrupted") == [
        f"{name}{BOTTLENECK_SUFFIX}" for name in NAMES
    ]
    epochs: list[tuple[str, int]] = []

    def stop(name: str, result: EpochResult) -> None:
        epochs.append((name, result.epoch))
        if epochs[-1] == (NAMES[1], 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", photos, progress=stop)
    assert file_names(tmp_path / "resumed") == [
        f"{NAMES[0]}{BOTTLENECK_SUFFIX}",
        f"{NAMES[1]}.checkpoint.safetensors",
    ]
    resumed = run(
        tmp_path / "resumed",
        photos,
        progress=lambda name, result: epochs.append((name, result.epoch)),
    )
    assert epochs == [(name, epoch) for name in NAMES for epoch in (1, 2)]
    assert [b.deployed_name for b in resumed] == [b.deployed_name for b in uninterrupted]


def test_bottlenecks_of_another_run_are_trained_again(photos: Photos, tmp_path: Path) -> None:
    first = run(tmp_path, photos)
    longer = run(tmp_path, photos, budget=Budget(epochs=3, batch_size=16))
    assert [len(bottleneck.training["history"]) for bottleneck in longer] == [3, 3]
    again = run(tmp_path, photos)
    assert [b.deployed_name for b in again] == [b.deployed_name for b in first]


def test_without_resume_everything_is_trained_again(photos: Photos, tmp_path: Path) -> None:
    run(tmp_path, photos)
    epochs: list[int] = []
    run(tmp_path, photos, progress=lambda _name, result: epochs.append(result.epoch))
    assert epochs == []
    run(tmp_path, photos, resume=False, progress=lambda _name, r: epochs.append(r.epoch))
    assert epochs == [1, 2, 1, 2]


def test_a_run_is_checked_before_the_first_training(photos: Photos, tmp_path: Path) -> None:
    net = toy_network()
    options: dict[str, Any] = {"preprocessing": PRE, "test": photos, "directory": tmp_path / "d"}
    with pytest.raises(SplitPointError, match="'4'"):
        train_bottlenecks(net, ["0", "4"], photos, **options)
    with pytest.raises(DataError, match="at least one split point"):
        train_bottlenecks(net, [], photos, **options)
    assert not (tmp_path / "d").exists()
