"""Figures of an evaluation: predicted against measured, and accuracy against bytes. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")  # no display on servers

from matplotlib.figure import Figure

from .ranks import average_ranks

__all__ = ["bytes_figure", "prediction_figure"]

Result = Mapping[str, Any]
SHOWN: Final = ("depth", "size", "cui", "cui-true", "kl-pool2", "kl-linear")


def prediction_figure(
    results: Sequence[Result], path: str | Path, predictors: Sequence[str] = SHOWN
) -> Path:
    """One panel for each network (rows) and predictor: its rank of every split point against the measured accuracy,
    with the range over seeds."""
    shown = [p for p in predictors if p in results[0]["points"][0]["predictions"]]
    figure = Figure(figsize=(2.3 * len(shown), 2.1 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), len(shown), squeeze=False, sharey="row")
    for row, result in zip(axes, results, strict=True):
        accuracy = [100 * p["accuracy"] for p in result["points"]]
        low = [100 * min(p["accuracy_by_seed"]) for p in result["points"]]
        high = [100 * max(p["accuracy_by_seed"]) for p in result["points"]]
        stages = {tuple(p["shape"]): i for i, p in enumerate(reversed(result["points"]))}
        colours = [
            f"C{sorted(stages.values(), reverse=True).index(stages[tuple(p['shape'])])}"
            for p in result["points"]
        ]
        scores = {s["name"]: s["spearman"]["value"] for s in result["predictors"]}
        for axis, predictor in zip(row, shown, strict=True):
            rank = average_ranks([p["predictions"][predictor] for p in result["points"]])
            axis.vlines(rank, low, high, colors="0.7", linewidth=1)
            axis.scatter(rank, accuracy, c=colours, s=16, zorder=3)
            value = scores[predictor]
            axis.set_title(f"{predictor}  {'-' if value is None else f'{value:.2f}'}", fontsize=8)
            axis.tick_params(labelsize=7)
        row[0].set_ylabel(f"{result['name']}\naccuracy %", fontsize=8)
    figure.supxlabel("rank by predictor (larger: predicted better)", fontsize=8)
    return _save(figure, path)


def bytes_figure(results: Sequence[Result], path: str | Path) -> Path:
    """Accuracy against bytes for one image: JPEG, codecs without training and trained bottlenecks."""
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, result in zip(axes, results, strict=False):
        rivals = result["rivals"]
        for kind, style, label in (
            ("jpeg", "s-", "JPEG file"),
            ("jpeg-scan", "s:", "JPEG without tables"),
        ):
            mine = sorted((r["nbytes"], 100 * r["accuracy"]) for r in rivals if r["kind"] == kind)
            axis.plot(
                *zip(*mine, strict=True),
                style,
                color="0.45",
                markersize=3,
                linewidth=1,
                label=label,
            )
        codecs = [(r["nbytes"], 100 * r["accuracy"]) for r in rivals if r["kind"] == "codec"]
        _frontier(axis, codecs, "C0", "^", "codec, no training")
        codes = [(c["nbytes"], 100 * c["accuracy"]) for p in result["points"] for c in p["codes"]]
        _frontier(axis, codes, "C3", "o", "trained bottleneck")
        axis.axhline(
            100 * result["full_accuracy"],
            color="k",
            linewidth=0.7,
            linestyle="--",
            label="whole network",
        )
        axis.set_xscale("log")
        full = 100 * result["full_accuracy"]
        axis.set_ylim(max(0.0, full - 30), full + 3)  # what loses more is of no use to anyone
        axis.set_title(result["name"], fontsize=9)
        axis.tick_params(labelsize=7)
    for axis in axes[len(results) :]:
        axis.set_visible(False)
    axes[0].legend(fontsize=6, loc="lower right")
    figure.supxlabel("bytes on the wire for one image", fontsize=8)
    figure.supylabel("top-1 accuracy %", fontsize=8)
    return _save(figure, path)


def _frontier(
    axis: Any, places: Sequence[tuple[float, float]], colour: str, marker: str, label: str
) -> None:
    axis.scatter(
        *zip(*places, strict=True), color=colour, marker=marker, s=8, alpha=0.35, linewidths=0
    )
    best: list[tuple[float, float]] = []
    for nbytes, accuracy in sorted(places):
        if not best or accuracy > best[-1][1]:
            best.append((nbytes, accuracy))
    axis.plot(
        *zip(*best, strict=True),
        color=colour,
        marker=marker,
        markersize=3,
        linewidth=1.2,
        label=label,
    )


def _save(figure: Figure, path: str | Path) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # No date and fixed ids: the same results give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "isplit", "svg.fonttype": "none"}):
        figure.savefig(
            target, dpi=110, metadata={"Date": None} if target.suffix == ".svg" else None
        )
    return target
