"""A whole evaluation of a toy network: its result, its files, and how it resumes."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from toys.bottleneck import CLASSES, PRE, toy_network, toy_photos

from isplit_plugin.bottleneck import Budget, Photos
from isplit_plugin.errors import DataError, UnknownNameError
from isplit_plugin.evaluation import (
    PREDICTORS,
    Settings,
    bytes_figure,
    evaluate,
    prediction_figure,
    register,
    render,
    save,
)

SETTINGS = Settings(
    budget=Budget(epochs=2, batch_size=16, lr=1e-2),
    seeds=(0, 1),
    calibration=18,
    baseline_photos=12,
    repeats=20,
)


class Evaluated(NamedTuple):
    """A result, the folder of its bottlenecks, and the lines of its progress."""

    result: dict[str, Any]
    directory: Path
    lines: list[str]


@pytest.fixture(scope="module")
def photos() -> tuple[Photos, Photos]:
    return toy_photos(60, seed=0), toy_photos(60, seed=1)


def run(photos: tuple[Photos, Photos], **options: Any) -> dict[str, Any]:
    train, test = photos
    defaults: dict[str, Any] = {"name": "toy", "settings": SETTINGS}
    return evaluate(
        toy_network(),
        train=train,
        test=test,
        preprocessing=PRE,
        classes=CLASSES,
        **(defaults | options),
    )


@pytest.fixture(scope="module")
def evaluated(photos: tuple[Photos, Photos], tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    directory = tmp_path_factory.mktemp("work")
    lines: list[str] = []
    result = run(photos, directory=directory, progress=lines.append)
    return Evaluated(result, directory, lines)


@pytest.fixture(scope="module")
def result(evaluated: Evaluated) -> dict[str, Any]:
    return evaluated.result


def test_the_result(result: dict[str, Any]) -> None:
    assert [point["name"] for point in result["points"]] == ["0", "1", "2"]
    assert {score["name"] for score in result["predictors"]} == set(PREDICTORS)
    assert result["settings"]["calibration_photos"] + result["settings"]["test_photos"] == 60
    for point in result["points"]:
        assert len(point["accuracy_by_seed"]) == 2
        assert point["accuracy"] == pytest.approx(np.mean(point["accuracy_by_seed"]), abs=1e-5)
        # The classes have equally many photos.
        by_class = list(point["accuracy_by_class"].values())
        assert point["accuracy"] == pytest.approx(np.mean(by_class), abs=1e-5)
        assert [code["codec"] for code in point["codes"]] == list(SETTINGS.code_codecs)
    depth = next(score for score in result["predictors"] if score["name"] == "depth")
    assert depth["spearman_given_depth"]["value"] is None
    assert [point["predictions"]["depth"] for point in result["points"]] == [0, 1, 2]
    assert [point["predictions"]["size"] for point in result["points"]] == [-8640, -8640, -4608]
    kinds = {baseline["kind"] for baseline in result["baselines"]}
    assert kinds == {"jpeg", "jpeg-scan", "png", "device", "codec"}
    json.dumps(result, allow_nan=False)


def test_a_second_run_trains_nothing_and_has_the_same_result(
    photos: tuple[Photos, Photos], evaluated: Evaluated
) -> None:
    assert sum("agreement" in line for line in evaluated.lines) == 6
    lines: list[str] = []
    again = run(photos, directory=evaluated.directory, progress=lines.append)
    assert lines
    assert not any("agreement" in line for line in lines)

    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: without_times(v) for k, v in value.items() if k != "seconds"}
        return [without_times(v) for v in value] if isinstance(value, list) else value

    assert without_times(again) == without_times(evaluated.result)


def test_a_registered_predictor_is_evaluated(
    photos: tuple[Photos, Photos], evaluated: Evaluated
) -> None:
    register("reversed", lambda context: -np.arange(len(context.points), dtype=float))
    try:
        settings = replace(SETTINGS, predictors=("reversed", "depth"))
        result = run(photos, directory=evaluated.directory, settings=settings)
    finally:
        PREDICTORS.pop("reversed")
    correlations = {s["name"]: s["spearman"]["value"] for s in result["predictors"]}
    assert list(correlations) == ["reversed", "depth"]
    assert correlations["reversed"] == -correlations["depth"]


def test_tables_and_json(result: dict[str, Any], tmp_path: Path) -> None:
    text = render(result)
    for word in ("kl-linear", "jpeg", "bottleneck", "Youden"):
        assert word in text
    path = save(result, tmp_path / "deep" / "r.json")
    assert json.loads(path.read_text()) == json.loads(json.dumps(result))


def test_a_ranking_at_chance_level_is_marked(
    photos: tuple[Photos, Photos], evaluated: Evaluated
) -> None:
    train, test = photos
    rng = np.random.default_rng(0)
    shuffled = copy.copy(test)
    shuffled.labels = rng.permutation(test.labels)
    settings = replace(SETTINGS, predictors=("depth",))
    result = run((train, shuffled), directory=evaluated.directory, settings=settings)
    assert result["warning"] == "at chance level: this ranking means nothing"
    assert f"Warning: {result['warning']}\n\n| predictor" in render(result)
    good = result | {"warning": None}
    assert "chance" not in render(good)


def test_equal_results_give_equal_figures(result: dict[str, Any], tmp_path: Path) -> None:
    first, second = (
        prediction_figure([result, result], tmp_path / name, ["cui"]).read_bytes()
        for name in ("first.svg", "second.svg")
    )
    assert b"<svg" in first
    assert first == second
    assert b"<svg" in bytes_figure([result], tmp_path / "bytes.svg").read_bytes()


def test_what_cannot_be_evaluated_is_refused_before_training(
    photos: tuple[Photos, Photos], tmp_path: Path
) -> None:
    directory = tmp_path / "work"
    with pytest.raises(DataError, match="labelled photos"):
        run((photos[0], toy_photos(3)), directory=directory)
    with pytest.raises(DataError, match="at least 3 candidate"):
        run(photos, split_points=["0", "1"], directory=directory)
    with pytest.raises(UnknownNameError, match="magic"):
        run(photos, settings=Settings(predictors=("magic",)), directory=directory)
    assert not directory.exists()
