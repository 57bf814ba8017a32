"""The study: base networks of several seeds, and its small transformer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.evaluation.networks import build
from benchmarks.evaluation.report import COLUMNS, by_network, load, overall
from benchmarks.evaluation.train import network_of, result_name
from isplit_plugin.network import capture


def _result(name: str, value: float) -> dict[str, Any]:
    score: dict[str, Any] = {column: {"value": value} for column in COLUMNS}
    score |= {"name": "depth", "seconds": 0.0, "within_stage_pairs": 4}
    return {"name": name, "predictors": [score], "points": []}


def test_seeds_have_names_of_their_own() -> None:
    assert result_name("vgg6_notmnist", 0) == "vgg6_notmnist"
    assert result_name("vgg6_notmnist", 2) == "vgg6_notmnist-base2"
    assert network_of("vgg6_notmnist-base2") == network_of("vgg6_notmnist") == "vgg6_notmnist"


def test_the_first_seed_stands_for_its_network(tmp_path: Path) -> None:
    for name in ("b-base1", "b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps(_result(name, 0.5)))
    groups = by_network(load(tmp_path))
    assert {name: [own["name"] for own in group] for name, group in groups.items()} == {
        "a": ["a"],
        "b": ["b", "b-base1"],
    }


def test_the_seeds_of_a_network_count_as_one_result() -> None:
    results = [_result("a", 0.8), _result("b", 0.2), _result("b-base1", 0.4)]
    mean = overall(results).splitlines()[2].split("|")[2].strip()
    assert mean.startswith("0.55 [")  # of 0.8 and of the mean of 0.2 and 0.4
    low, high = (float(word) for word in mean[len("0.55 [") : -1].split(","))
    assert low == pytest.approx(0.2)  # the seeds are resampled, too
    assert high == pytest.approx(0.8)
    alike = [_result("a", 0.8), _result("b", 0.3), _result("b-base1", 0.3)]
    assert overall(alike) == overall(alike[:2])


def test_the_transformer_can_be_cut_behind_its_blocks() -> None:
    torch.manual_seed(0)
    loaded = build("vit6", "notmnist")
    net = capture(loaded.model, loaded.example_input)
    point = net.split_point("blocks.2")
    assert (point.shape, point.channel_axis) == ((50, 64), 2)
    x = torch.rand(3, *loaded.preprocessing.shape)
    head, tail = net.bisect("blocks.2")
    with torch.inference_mode():
        torch.testing.assert_close(tail(head(x)), loaded.model(x))
