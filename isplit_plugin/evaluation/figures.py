"""Figures of evaluations, which need matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .ranks import average_ranks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bytes_figure", "prediction_figure"]

Result = Mapping[str, Any]

_SHOWN: Final = ("depth", "size", "cui", "cui-true", "kl-pool2", "kl-linear")
_LOSS_SHOWN: Final = 30.0
"""Percentage points of accuracy below the full network's that the figure shows."""


def prediction_figure(
    results: Sequence[Result], path: str | Path, predictors: Sequence[str] = _SHOWN
) -> Path:
    """Write a figure with one panel for each result (rows) and predictor (columns).

    A panel shows the measured accuracy of every split point over its rank by the predictor, with
    the range over seeds.
    """
    shown = [name for name in predictors if name in results[0]["points"][0]["predictions"]]
    figure = _new_figure(2.3 * len(shown), 2.1 * len(results))
    axes = figure.subplots(len(results), len(shown), squeeze=False, sharey="row")
    for row, result in zip(axes, results, strict=True):
        for axis, predictor in zip(row, shown, strict=True):
            _prediction_panel(axis, result, predictor)
        row[0].set_ylabel(f"{result['name']}\naccuracy %", fontsize=8)
    figure.supxlabel("rank by predictor (larger: predicted better)", fontsize=8)
    return _save(figure, path)


def bytes_figure(results: Sequence[Result], path: str | Path) -> Path:
    """Write a figure of accuracy over bytes, with one panel for each result.

    It shows JPEG, codecs without training and trained bottlenecks.
    """
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure = _new_figure(3.6 * columns, 2.9 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, result in zip(axes, results, strict=False):
        _bytes_panel(axis, result)
    for axis in axes[len(results) :]:
        axis.set_visible(False)
    axes[0].legend(fontsize=6, loc="lower right")
    figure.supxlabel("bytes on the wire for one image", fontsize=8)
    figure.supylabel("top-1 accuracy %", fontsize=8)
    return _save(figure, path)


def _prediction_panel(axis: Axes, result: Result, predictor: str) -> None:
    points = result["points"]
    ranks = average_ranks([point["predictions"][predictor] for point in points])
    lowest = [100 * min(point["accuracy_by_seed"]) for point in points]
    highest = [100 * max(point["accuracy_by_seed"]) for point in points]
    axis.vlines(ranks, lowest, highest, colors="0.7", linewidth=1)
    accuracies = [100 * point["accuracy"] for point in points]
    # One colour for each stage, that is, for each shape of the activation.
    stages = list(dict.fromkeys(tuple(point["shape"]) for point in points))
    colours = [f"C{stages.index(tuple(point['shape']))}" for point in points]
    axis.scatter(ranks, accuracies, c=colours, s=16, zorder=3)
    [score] = [score for score in result["predictors"] if score["name"] == predictor]
    correlation = score["spearman"]["value"]
    text = "-" if correlation is None else f"{correlation:.2f}"
    axis.set_title(f"{predictor}  {text}", fontsize=8)
    axis.tick_params(labelsize=7)


def _bytes_panel(axis: Axes, result: Result) -> None:
    baselines = result["baselines"]
    for kind, style, label in (
        ("jpeg", "s-", "JPEG file"),
        ("jpeg-scan", "s:", "JPEG without tables"),
    ):
        nbytes, accuracies = zip(
            *sorted(_position(b) for b in baselines if b["kind"] == kind), strict=True
        )
        axis.plot(nbytes, accuracies, style, color="0.45", markersize=3, linewidth=1, label=label)
    codecs = [_position(b) for b in baselines if b["kind"] == "codec"]
    _scatter_with_frontier(axis, codecs, "C0", "^", "codec, no training")
    codes = [_position(code) for point in result["points"] for code in point["codes"]]
    _scatter_with_frontier(axis, codes, "C3", "o", "trained bottleneck")
    full = 100 * result["full_accuracy"]
    axis.axhline(full, color="k", linewidth=0.7, linestyle="--", label="full network")
    axis.set_xscale("log")
    axis.set_ylim(max(0.0, full - _LOSS_SHOWN), full + 3)
    axis.set_title(result["name"], fontsize=9)
    axis.tick_params(labelsize=7)


def _position(entry: Mapping[str, Any]) -> tuple[float, float]:
    """Bytes and accuracy in per cent."""
    return entry["nbytes"], 100 * entry["accuracy"]


def _scatter_with_frontier(
    axis: Axes, positions: Sequence[tuple[float, float]], colour: str, marker: str, label: str
) -> None:
    """All positions, and a line through those with the highest accuracy for their bytes."""
    nbytes, accuracies = zip(*positions, strict=True)
    axis.scatter(nbytes, accuracies, color=colour, marker=marker, s=8, alpha=0.35, linewidths=0)
    frontier: list[tuple[float, float]] = []
    for position in sorted(positions):
        if not frontier or position[1] > frontier[-1][1]:
            frontier.append(position)
    nbytes, accuracies = zip(*frontier, strict=True)
    axis.plot(
        nbytes, accuracies, color=colour, marker=marker, markersize=3, linewidth=1.2, label=label
    )


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: str | Path) -> Path:
    import matplotlib

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Without date and with fixed ids, equal results give equal files.
    metadata = {"Date": None} if target.suffix == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "isplit", "svg.fonttype": "none"}):
        figure.savefig(target, dpi=110, metadata=metadata)
    return target
