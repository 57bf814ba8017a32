"""Tables and figures of all results: ``tables.md``, ``prediction.png`` and ``bytes.svg``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isplit_plugin.evaluation import (
    Estimate,
    baselines_table,
    bytes_figure,
    classes_table,
    interval,
    markdown_table,
    points_table,
    prediction_figure,
    predictors_table,
)

from .train import network_of

Result = Mapping[str, Any]

COLUMNS = {
    "spearman": "Spearman",
    "kendall": "Kendall",
    "spearman_given_depth": "given depth",
    "spearman_minus_depth": "minus depth's",
    "within_stage": "within stage",
    "spearman_by_class": "per class",
    "regret": "regret, points",
    "regret_in_reach": "regret in reach",
}


def report(out: Path) -> str:
    """Write the tables and figures of all results in a folder. Returns the tables."""
    results = load(out)
    if not results:
        raise SystemExit(f"{out}: no results; make them with `python -m benchmarks.evaluation run`")
    first = [own[0] for own in by_network(results).values()]
    prediction_figure(first, out / "prediction.png")
    bytes_figure(first, out / "bytes.svg")
    parts = ["# All predictors, over all results", overall(results)]
    for result in results:
        parts += [
            f"# {result['name']}",
            _summary(result),
            points_table(result, ("cui", "kl-pool2", "kl-pool4", "kl-linear")),
            predictors_table(result),
            baselines_table(result),
            classes_table(result),
        ]
    text = "\n\n".join(parts) + "\n"
    (out / "tables.md").write_text(text)
    return text


def load(out: Path) -> list[Result]:
    """The results in a folder."""
    paths = sorted(out.glob("*.json"), key=lambda path: path.stem)  # the first seed is first
    files = [json.loads(path.read_text()) for path in paths]
    return [content for content in files if "predictors" in content and "points" in content]


def by_network(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each network and data set: one for each seed of the base network."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(network_of(result["name"]), []).append(result)
    return groups


def overall(results: Sequence[Result], repeats: int = 2000) -> str:
    """Each predictor's mean over networks and data sets, with the interval of a bootstrap.

    A network's value is the mean over the seeds of its base network. The bootstrap resamples the
    networks, and the seeds of each. So the interval covers other networks and data sets of the same
    kind, and other base networks, as far as their numbers allow.
    """
    rng = np.random.default_rng(0)
    groups = list(by_network(results).values())
    networks = rng.integers(0, len(groups), (repeats, len(groups)))
    picks = rng.random((repeats, len(groups), max(map(len, groups))))
    rows = []
    for name in [score["name"] for score in results[0]["predictors"]]:
        scores = [[_score(result, name) for result in own] for own in groups]
        estimates = {column: _mean(scores, column, networks, picks) for column in COLUMNS}
        spearman = estimates["spearman"]
        cells = [_cell(column, estimate) for column, estimate in estimates.items()]
        milliseconds = 1e3 * float(np.mean([score["seconds"] for own in scores for score in own]))
        row = [name, *cells, f"{milliseconds:.1f}"]
        rows.append((0.0 if spearman is None else spearman.value, row))
    rows.sort(key=lambda entry: -entry[0])
    return markdown_table(["predictor", *COLUMNS.values(), "ms per photo"], [r for _, r in rows])


def _score(result: Result, name: str) -> Mapping[str, Any]:
    return next(score for score in result["predictors"] if score["name"] == name)


def _mean(
    scores: Sequence[Sequence[Mapping[str, Any]]],
    column: str,
    networks: npt.NDArray[np.int64],
    picks: npt.NDArray[np.float64],
) -> Estimate | None:
    """The mean of one statistic over networks; ``None`` if no result has it.

    The concordance within a stage is weighted by the number of pairs.

    Parameters:
        scores: of each network, one for each seed of its base network.
        networks: (repeats, networks) of the bootstrap.
        picks: (repeats, networks, seeds), from 0 to 1: which seeds the bootstrap takes.
    """
    sums = np.zeros((2, len(scores)))  # weighted values, weights
    drawn = np.zeros((2, *networks.shape))
    for number, own in enumerate(scores):
        values = np.asarray([score[column]["value"] for score in own], dtype=float)
        weights = np.ones(len(own))
        if column == "within_stage":
            weights = np.asarray([score["within_stage_pairs"] for score in own], dtype=float)
        weights[~np.isfinite(values)] = 0
        parts = np.array([np.nan_to_num(values) * weights, weights])
        sums[:, number] = parts.mean(axis=1)
        seeds = (picks[:, number, : len(own)] * len(own)).astype(int)
        drawn[:, :, number] = parts[:, seeds].mean(axis=2)
    if not sums[1].any():
        return None
    totals = np.take_along_axis(drawn, networks[None], axis=2).sum(axis=2)
    with np.errstate(invalid="ignore"):
        return interval(float(sums[0].sum() / sums[1].sum()), totals[0] / totals[1])


def _cell(column: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    scale, digits = (100, 1) if column.startswith("regret") else (1, 2)
    value, low, high = (f"{scale * number:.{digits}f}" for number in estimate)
    return f"{value} [{low}, {high}]"


def _summary(result: Result) -> str:
    base = result.get("base_network", {})
    settings = result["settings"]
    return (
        f"Full network: {100 * result['full_accuracy']:.1f} % on the {settings['test_photos']} "
        f"photos that measure; {settings['calibration_photos']} others are for the predictors. "
        f"Base network: {base.get('epochs', '?')} epochs on {base.get('train_images', '?')} "
        f"photos, {base.get('cpu_seconds', '?')} s of CPU. "
        f"Bottlenecks: {settings['budget']['epochs']} epochs on {settings['train_photos']} "
        f"photos, seeds {settings['seeds']}, "
        f"{result['environment']['training_cpu_seconds']} s of CPU in total."
    )
