"""An evaluation as tables: Markdown, readable on a terminal too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "classes_table",
    "markdown_table",
    "points_table",
    "predictors_table",
    "render",
    "rivals_table",
]

Result = Mapping[str, Any]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns in Markdown."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [header, ["-" * w for w in widths], *rows]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(estimate: Mapping[str, float | None], scale: float = 1.0, digits: int = 2) -> str:
    value, low, high = (
        None if (number := estimate[key]) is None else scale * number
        for key in ("value", "low", "high")
    )
    if value is None or low is None:
        return _number(value, digits)
    return f"{_number(value, digits)} [{_number(low, digits)}, {_number(high, digits)}]"


def points_table(
    result: Result, predictors: Sequence[str] = ("cui", "kl-pool2", "kl-linear")
) -> str:
    """Accuracy at every candidate split point, mean and range over seeds, beside some predictors."""
    shown = [p for p in predictors if p in result["points"][0]["predictions"]]
    rows = [
        [
            point["name"],
            " x ".join(map(str, point["shape"])),
            " x ".join(map(str, point["code_shape"])),
            _device_share(result, point["name"]),
            f"{100 * point['accuracy']:.1f}",
            f"{100 * min(point['accuracy_by_seed']):.1f}-{100 * max(point['accuracy_by_seed']):.1f}",
            *(f"{point['predictions'][p]:.3g}" for p in shown),
        ]
        for point in result["points"]
    ]
    header = ["split point", "activation", "code", "device MACs %", "accuracy %", "seeds"]
    return markdown_table([*header, *shown], rows)


def predictors_table(result: Result) -> str:
    """Every predictor with its intervals, the best rank correlation first."""
    rows = [
        [
            s["name"],
            _interval(s["spearman"]),
            _interval(s["kendall"]),
            _interval(s["partial"]),
            _interval(s["versus_depth"]),
            f"{_interval(s['within'])} ({s['pairs']})",
            _interval(s["by_class"]),
            _interval(s["regret"], 100, 1),
            _interval(s["regret_reach"], 100, 1),
            f"{1e3 * s['seconds']:.1f}",
        ]
        for s in sorted(result["predictors"], key=lambda s: -(s["spearman"]["value"] or -2))
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
    ]
    return markdown_table([*header, "regret in reach", "ms a photo"], rows)


def rivals_table(result: Result) -> str:
    """Bytes and accuracy: the naive rivals, and the best of codecs and trained codes at every size. "Half": the best
    where the device runs at most half of the multiply-accumulates."""
    rows = [_row(r["kind"], r, result) for r in result["rivals"] if r["kind"] != "codec"]
    codecs = [r for r in result["rivals"] if r["kind"] == "codec"]
    codes = [
        {"split_point": p["name"], "detail": c["codec"], **c}
        for p in result["points"]
        for c in p["codes"]
    ]
    for kind, mine in (("codec", codecs), ("bottleneck", codes)):
        rows += [_row(kind, r, result) for r in _frontier(mine)]
        half = [r for r in mine if _share(result, r["split_point"]) <= 0.5]
        rows += [_row(f"{kind}, half", r, result) for r in _frontier(half)]
    return markdown_table(
        ["what", "split point", "how", "device MACs %", "bytes", "accuracy %"], rows
    )


def _row(kind: str, row: Mapping[str, Any], result: Result) -> list[str]:
    point = row["split_point"]
    share = _device_share(result, point)
    return [
        kind,
        point,
        row["detail"],
        share,
        f"{row['nbytes']:.0f}",
        f"{100 * row['accuracy']:.1f}",
    ]


def _share(result: Result, point: str) -> float:
    """The share of multiply-accumulates that the device runs, without the encoder."""
    macs = {p["name"]: p["head_macs"] for p in result["points"]}
    total = result.get("macs") or max(macs.values())
    return float({"input": 0.0, "output": 1.0}.get(point, macs.get(point, total) / total))


def _device_share(result: Result, point: str) -> str:
    return f"{100 * _share(result, point):.0f}"


def _frontier(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that no other row beats in both bytes and accuracy, fewest bytes first."""
    kept: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda r: (r["nbytes"], -r["accuracy"])):
        if not kept or row["accuracy"] > kept[-1]["accuracy"]:
            kept.append(row)
    return kept


def classes_table(result: Result, shown: Sequence[str] = ("cui", "kl-pool2", "kl-linear")) -> str:
    """What choosing per class gains over one choice for all, in percentage points of accuracy."""
    rows = []
    for reach, found in result["class_choice"].items():
        differ = _interval(found["differ"], 100, 0)
        rows.append(
            [
                reach,
                "accuracies",
                _interval(found["recall"], 100),
                _interval(found["youden"], 100),
                differ,
            ]
        )
        rows += [
            [reach, name, _interval(found["predictors"][name], 100), "-", "-"]
            for name in shown
            if name in found["predictors"]
        ]
    header = [
        "candidates",
        "chosen by",
        "recall gained, points",
        "Youden's J gained, points",
        "classes that differ %",
    ]
    return markdown_table(header, rows)


def render(result: Result) -> str:
    """Everything, for a terminal."""
    settings = result["settings"]
    head = (
        f"{result['name']}: full network {100 * result['full_accuracy']:.1f} % right "
        f"on {settings['test_photos']} photos; "
        f"bottlenecks trained on {settings['train_photos']}, {settings['budget']['epochs']} epochs, "
        f"{len(settings['seeds'])} seeds"
    )
    parts = [
        head,
        points_table(result),
        predictors_table(result),
        rivals_table(result),
        classes_table(result),
    ]
    return "\n\n".join(parts)
