"""Tables and figures over all results of the study: ``tables.md``, ``prediction.png`` and ``bytes.svg``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from isplit_plugin.evaluation.figures import bytes_figure, prediction_figure
from isplit_plugin.evaluation.ranks import interval
from isplit_plugin.evaluation.render import (
    classes_table,
    markdown_table,
    points_table,
    predictors_table,
    rivals_table,
)

STATISTICS = ("spearman", "kendall", "partial", "versus_depth", "within", "by_class")


def load(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    return [r for r in found if "predictors" in r and "points" in r]


def overall(results: list[dict[str, Any]], repeats: int = 2000) -> str:
    """Each predictor's mean over the results, with the interval of a bootstrap over results: what another network and
    data set might show, as far as this handful can tell."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(results), (repeats, len(results)))
    rows = []
    for name in [s["name"] for s in results[0]["predictors"]]:
        mine = [next(s for s in r["predictors"] if s["name"] == name) for r in results]
        cells, first = [name], 0.0
        for statistic in (*STATISTICS, "regret", "regret_reach"):
            values = np.asarray(
                [np.nan if m[statistic]["value"] is None else m[statistic]["value"] for m in mine]
            )
            if not np.isfinite(values).any():
                cells.append("-")
                continue
            scale, digits = (100, 1) if statistic.startswith("regret") else (1, 2)
            # A stage's concordance weighs as many pairs as it has; everything else weighs every result the same.
            weights = np.asarray(
                [m["pairs"] if statistic == "within" else 1 for m in mine], dtype=float
            )
            weights[~np.isfinite(values)] = 0
            kept = np.nan_to_num(values)
            with np.errstate(invalid="ignore"):
                means = (kept * weights)[drawn].sum(axis=1) / weights[drawn].sum(axis=1)
            value, low, high = interval(float(kept @ weights / weights.sum()), means)
            cells.append(
                f"{scale * value:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
            )
            first = value if statistic == "spearman" else first
        cells.append(f"{1e3 * float(np.mean([m['seconds'] for m in mine])):.1f}")
        rows.append((first, cells))
    header = [
        "predictor",
        "Spearman",
        "Kendall",
        "given depth",
        "minus depth's",
        "within stage",
        "per class",
    ]
    ordered = [cells for _, cells in sorted(rows, key=lambda row: -row[0])]
    return markdown_table([*header, "regret, points", "regret in reach", "ms a photo"], ordered)


def report(out: Path) -> str:
    results = load(out)
    if not results:
        raise SystemExit(
            f"{out}: no results; make them with: python -m benchmarks.evaluation run ..."
        )
    prediction_figure(results, out / "prediction.png")
    bytes_figure(results, out / "bytes.svg")
    parts = ["# All predictors, over all results", overall(results)]
    for result in results:
        base = result.get("base_network", {})
        settings, made = result["settings"], result["made_with"]
        parts += [
            f"# {result['name']}",
            f"Full network {100 * result['full_accuracy']:.1f} % on the {settings['test_photos']} photos that measure; "
            f"{settings['calibration_photos']} others predict. Base network: {base.get('epochs', '?')} epochs on "
            f"{base.get('train_images', '?')} photos, {base.get('cpu_seconds', '?')} s of CPU. "
            f"Bottlenecks: {settings['budget']['epochs']} epochs on {settings['train_photos']} photos, seeds "
            f"{settings['seeds']}, {made['training_cpu_seconds']} s of CPU in all.",
            points_table(result, ("cui", "kl-pool2", "kl-pool4", "kl-linear")),
            predictors_table(result),
            rivals_table(result),
            classes_table(result),
        ]
    text = "\n\n".join(parts) + "\n"
    (out / "tables.md").write_text(text)
    return text
