"""The result of an evaluation as Markdown tables, which also read well on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..schema import INPUT, OUTPUT

__all__ = [
    "baselines_table",
    "classes_table",
    "markdown_table",
    "points_table",
    "predictors_table",
    "render",
]

Result = Mapping[str, Any]

_SHOWN: Final = ("cui", "kl-pool2", "kl-linear")


def render(result: Result) -> str:
    """A summary and all tables."""
    settings = result["settings"]
    summary = (
        f"{result['name']}: full network {100 * result['full_accuracy']:.1f} % correct "
        f"on {settings['test_photos']} photos; "
        f"bottlenecks trained on {settings['train_photos']} photos, "
        f"{settings['budget']['epochs']} epochs, {len(settings['seeds'])} seeds"
    )
    tables = (points_table, predictors_table, baselines_table, classes_table)
    return "\n\n".join([summary, *(table(result) for table in tables)])


def points_table(result: Result, predictors: Sequence[str] = _SHOWN) -> str:
    """Accuracy at every split point, mean and range over seeds, with some predictors."""
    shown = [name for name in predictors if name in result["points"][0]["predictions"]]
    rows = []
    for point in result["points"]:
        by_seed = [100 * accuracy for accuracy in point["accuracy_by_seed"]]
        rows.append(
            [
                point["name"],
                " x ".join(map(str, point["shape"])),
                " x ".join(map(str, point["code_shape"])),
                _device_share(result, point["name"]),
                f"{100 * point['accuracy']:.1f}",
                f"{min(by_seed):.1f}-{max(by_seed):.1f}",
                *(f"{point['predictions'][name]:.3g}" for name in shown),
            ]
        )
    header = ["split point", "activation", "code", "device MACs %", "accuracy %", "seeds"]
    return markdown_table([*header, *shown], rows)


def predictors_table(result: Result) -> str:
    """Every predictor with its intervals, the highest rank correlation first.

    A warning comes before the table if the measured accuracies are at chance level.
    """
    rows = [
        [
            score["name"],
            _interval(score["spearman"]),
            _interval(score["kendall"]),
            _interval(score["spearman_given_depth"]),
            _interval(score["spearman_minus_depth"]),
            f"{_interval(score['within_stage'])} ({score['within_stage_pairs']})",
            _interval(score["spearman_by_class"]),
            _interval(score["regret"], 100, 1),
            _interval(score["regret_in_reach"], 100, 1),
            f"{1e3 * score['seconds']:.1f}",
        ]
        for score in sorted(
            result["predictors"], key=lambda score: -(score["spearman"]["value"] or -2)
        )
    ]
    header = [
        "predictor",
        "Spearman",
        "Kendall",
        "given depth",
        "minus depth's",
        "within stage (pairs)",
        "per class",
        "regret, points",
        "regret in reach",
        "ms per photo",
    ]
    table = markdown_table(header, rows)
    return table if result.get("warning") is None else f"Warning: {result['warning']}\n\n{table}"


def baselines_table(result: Result) -> str:
    """Bytes and accuracy of the baselines and of the trained bottlenecks.

    Of the codecs and of the bottlenecks it shows those that no other one beats in both bytes and
    accuracy. "half" means: of those where the device runs at most half of the MACs.
    """
    baselines = result["baselines"]
    rows = [_bytes_row(b["kind"], b, result) for b in baselines if b["kind"] != "codec"]
    codecs = [b for b in baselines if b["kind"] == "codec"]
    codes = [
        {"split_point": point["name"], "detail": code["codec"], **code}
        for point in result["points"]
        for code in point["codes"]
    ]
    for kind, entries in (("codec", codecs), ("bottleneck", codes)):
        half = [e for e in entries if _head_share(result, e["split_point"]) <= 0.5]
        rows += [_bytes_row(kind, entry, result) for entry in _frontier(entries)]
        rows += [_bytes_row(f"{kind}, half", entry, result) for entry in _frontier(half)]
    header = ["kind", "split point", "detail", "device MACs %", "bytes", "accuracy %"]
    return markdown_table(header, rows)


def classes_table(result: Result, predictors: Sequence[str] = _SHOWN) -> str:
    """What choosing per class gains over one choice for all, in percentage points."""
    rows = []
    for reach, choice in result["class_choice"].items():
        rows.append(
            [
                reach,
                "accuracies",
                _interval(choice["recall_gain"], 100),
                _interval(choice["youden_gain"], 100),
                _interval(choice["differing_classes"], 100, 0),
            ]
        )
        gains = choice["predictor_recall_gain"]
        rows += [
            [reach, name, _interval(gains[name], 100), "-", "-"]
            for name in predictors
            if name in gains
        ]
    header = [
        "candidates",
        "chosen by",
        "recall gained, points",
        "Youden's J gained, points",
        "differing classes %",
    ]
    return markdown_table(header, rows)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _interval(estimate: Mapping[str, float | None], scale: float = 1.0, digits: int = 2) -> str:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "-"
    text = f"{scale * value:.{digits}f}"
    if low is None or high is None:
        return text
    return f"{text} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def _bytes_row(kind: str, entry: Mapping[str, Any], result: Result) -> list[str]:
    return [
        kind,
        entry["split_point"],
        entry["detail"],
        _device_share(result, entry["split_point"]),
        f"{entry['nbytes']:.0f}",
        f"{100 * entry['accuracy']:.1f}",
    ]


def _device_share(result: Result, split_point: str) -> str:
    return f"{100 * _head_share(result, split_point):.0f}"


def _head_share(result: Result, split_point: str) -> float:
    """The head's share of the network's MACs, without the encoder."""
    if split_point == INPUT:
        return 0.0
    if split_point == OUTPUT:
        return 1.0
    head_macs = {point["name"]: point["head_macs"] for point in result["points"]}
    return float(head_macs[split_point] / result["macs"])


def _frontier(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The entries that no other one beats in both bytes and accuracy, fewest bytes first."""
    frontier: list[Mapping[str, Any]] = []
    for entry in sorted(entries, key=lambda entry: (entry["nbytes"], -entry["accuracy"])):
        if not frontier or entry["accuracy"] > frontier[-1]["accuracy"]:
            frontier.append(entry)
    return frontier
