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
    prediction_figure(results, out / "prediction.png")
    bytes_figure(results, out / "bytes.svg")
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
    files = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    return [content for content in files if "predictors" in content and "points" in content]


def overall(results: Sequence[Result], repeats: int = 2000) -> str:
    """Each predictor's mean over the results, with the interval of a bootstrap over the results.

    The interval covers other networks and data sets of the same kind, as far as the number of
    results allows.
    """
    rng = np.random.default_rng(0)
    resamples = rng.integers(0, len(results), (repeats, len(results)))
    rows = []
    for name in [score["name"] for score in results[0]["predictors"]]:
        scores = [
            next(score for score in result["predictors"] if score["name"] == name)
            for result in results
        ]
        estimates = {column: _mean(scores, column, resamples) for column in COLUMNS}
        spearman = estimates["spearman"]
        cells = [_cell(column, estimate) for column, estimate in estimates.items()]
        milliseconds = 1e3 * float(np.mean([score["seconds"] for score in scores]))
        row = [name, *cells, f"{milliseconds:.1f}"]
        rows.append((0.0 if spearman is None else spearman.value, row))
    rows.sort(key=lambda entry: -entry[0])
    return markdown_table(["predictor", *COLUMNS.values(), "ms per photo"], [r for _, r in rows])


def _mean(
    scores: Sequence[Mapping[str, Any]], column: str, resamples: npt.NDArray[np.int64]
) -> Estimate | None:
    """The mean of one statistic over the results; ``None`` if no result has it.

    The concordance within a stage is weighted by the number of pairs.
    """
    values = np.asarray([score[column]["value"] for score in scores], dtype=float)
    if not np.isfinite(values).any():
        return None
    weights = np.ones(len(values))
    if column == "within_stage":
        weights = np.asarray([score["within_stage_pairs"] for score in scores], dtype=float)
    weights[~np.isfinite(values)] = 0
    weighted = np.nan_to_num(values) * weights
    with np.errstate(invalid="ignore"):
        means = weighted[resamples].sum(axis=1) / weights[resamples].sum(axis=1)
    return interval(float(weighted.sum() / weights.sum()), means)


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
