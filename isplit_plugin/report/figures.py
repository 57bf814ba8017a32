"""The figures of a report: curves of importance, bytes and times over the split points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..advice.placement import candidate_points, local_maxima
from ..profile import CutMeasurement, Profile
from ..schema import INPUT, OUTPUT, Cut, SplitPoint
from .style import GRID, INK, MARKERS, MUTED, RC, SERIES, SURFACE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Line", "candidates", "class_figure", "curve_figure", "faithful", "overview_figure"]

TITLE: Final = "Importance (log10 CUI)"
DECADES: Final = 7
"""Importance further below the highest is drawn at the floor: exact zeros have no logarithm."""
_MAX_LABELS: Final = 72

Floats = npt.NDArray[np.float64]


class Line(NamedTuple):
    """A curve over split points: its label, its values and standard errors, shape (P,); NaN where not known."""

    label: str
    mean: Floats
    standard_error: Floats | None = None


def candidates(points: Sequence[SplitPoint], mean: Floats) -> list[int]:
    """Indices of the strict interior local maxima of log CUI over the block outputs (all points, where none is one)."""
    members, _ = candidate_points(points, "blocks")
    return [int(i) for i in members[local_maxima(np.asarray(mean, dtype=np.float64)[members])]]


def faithful(measures: Sequence[CutMeasurement]) -> list[CutMeasurement]:
    """Those on which at least 99 % of the images keep the full network's top class."""
    return [m for m in measures if m.images.sum() and m.agreeing.sum() >= 0.99 * m.images.sum()]


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    @wraps(draw)
    def wrapped(*args: Any, **kwargs: Any) -> Figure:
        import matplotlib

        with matplotlib.rc_context(RC):
            return draw(*args, **kwargs)

    return wrapped


@_styled
def overview_figure(profile: Profile) -> Figure:
    """Over all split points: importance with its candidates starred, bytes beside the JPEG's, and the device's time."""
    points = profile.split_points
    curve = profile.curve()
    figure, (top, middle, bottom) = _panels(len(points), heights=(3.2, 3.0, 1.7))
    top.set_title(TITLE)
    blocks = _block_indices(points)
    if len(blocks) < len(points):
        top.plot(
            _log(curve.mean)[0], color=MUTED, linewidth=0.9, alpha=0.8, label="every split point"
        )
    _draw_line(top, Line("block outputs", curve.mean, curve.standard_error), 0, at=blocks)
    _stars(top, points, curve.mean, SERIES[1], named=True)
    _legend(top)
    middle.set_title("Bytes for one image")
    _draw_bytes(middle, profile)
    bottom.set_title("Head time on one CPU thread (ms)")
    head = np.asarray([profile.head_ms.get(p.name, np.nan) for p in points])
    bottom.fill_between(np.arange(len(points)), 0, head, color=SERIES[4], alpha=0.25, linewidth=0)
    bottom.plot(head, color=SERIES[4])
    bottom.set_ylim(bottom=0)
    _name_points(bottom, points)
    return figure


@_styled
def class_figure(profile: Profile, class_ids: Sequence[int]) -> Figure:
    """The curves of up to six classes over the block outputs, each with its own candidates starred."""
    members, _ = candidate_points(profile.split_points, "blocks")
    lines = []
    for class_id in list(class_ids)[: len(SERIES)]:
        mean, error, n = profile.curve([class_id])
        lines.append(Line(f"{profile.classes[class_id]} ({n})", mean[members], error[members]))
    overall = profile.curve()
    ground = Line(f"all ({overall.n})", overall.mean[members], None)
    return _curves([profile.split_points[int(i)] for i in members], lines, ground=ground)


@_styled
def curve_figure(
    points: Sequence[SplitPoint],
    lines: Sequence[Line],
    *,
    ground: Line | None = None,
    title: str = TITLE,
) -> Figure:
    """Up to six curves over ``points``, local maxima starred; ``ground`` is drawn behind, to compare with."""
    return _curves(points, list(lines)[: len(SERIES)], ground=ground, title=title)


def _curves(
    points: Sequence[SplitPoint],
    lines: Sequence[Line],
    *,
    ground: Line | None = None,
    title: str = TITLE,
) -> Figure:
    figure, panels = _panels(len(points), heights=(3.8,))
    axes = panels[0]
    axes.set_title(title)
    if ground is not None:
        logs, _ = _log(ground.mean)
        axes.plot(logs, color=MUTED, linestyle=(0, (2, 2)), label=ground.label)
    for number, line in enumerate(lines):
        _draw_line(axes, line, number)
        _stars(axes, points, line.mean, SERIES[number], named=len(lines) == 1)
    _name_points(axes, points)
    _legend(axes)
    return figure


def _panels(points: int, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    width = min(max(7.5, 0.14 * points + 2), 10.4)
    figure = Figure(figsize=(width, sum(heights) + 1.1), layout="constrained")
    axes = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, height_ratios=list(heights)
    )[:, 0]
    figure.get_layout_engine().set(h_pad=0.09, hspace=0.0)  # type: ignore[union-attr,call-arg]
    for each in axes:
        each.tick_params(length=0)
        each.margins(x=0.015)
    return figure, list(axes)


def _log(mean: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """log10, floored ``DECADES`` below the highest value, and where the floor holds. NaN stays."""
    mean = np.asarray(mean, dtype=np.float64)
    known = mean[np.isfinite(mean) & (mean > 0)]
    if not len(known):
        return np.where(np.isfinite(mean), 0.0, np.nan), np.isfinite(mean)
    floor = max(float(known.min()), float(known.max()) * 10.0**-DECADES)
    low = np.isfinite(mean) & (mean < floor)
    # Half a decade under the lowest value that is drawn: seen to lie below without stretching the axis.
    return np.log10(np.where(low, floor * 10**-0.5, mean)), low


def _draw_line(axes: Axes, line: Line, number: int, *, at: Sequence[int] | None = None) -> None:
    """One curve with its 95 % band, through the points ``at`` (all of them)."""
    colour = SERIES[number]
    logs, low = _log(line.mean)
    where = np.arange(len(logs)) if at is None else np.asarray(at, dtype=np.int64)
    axes.plot(
        where, logs[where], color=colour, label=line.label, marker=MARKERS[number], markersize=4
    )
    for x in where[low[where]]:
        axes.plot(
            x,
            logs[x],
            "v",
            color=colour,
            markerfacecolor=SURFACE,
            markersize=7,
            label="_low",
            clip_on=False,
        )
    if line.standard_error is not None:
        error = 1.96 * np.nan_to_num(np.asarray(line.standard_error, dtype=np.float64))
        floor = 10.0 ** float(np.nanmin(logs)) if np.isfinite(logs).any() else 1.0
        band = [
            np.where(low, logs, np.log10(np.maximum(line.mean + sign * error, floor)))
            for sign in (-1, 1)
        ]
        axes.fill_between(
            where, band[0][where], band[1][where], color=colour, alpha=0.16, linewidth=0
        )


def _stars(
    axes: Axes, points: Sequence[SplitPoint], mean: Floats, colour: str, *, named: bool
) -> None:
    chosen = candidates(points, mean)
    logs, _ = _log(mean)
    axes.plot(
        chosen, logs[chosen], "*", color=colour, markersize=15, markeredgecolor=SURFACE, markeredgewidth=0.8,
        label="_candidates", zorder=5,
    )  # fmt: skip
    if named:
        for i in chosen:
            axes.annotate(
                points[i].name,
                (i, logs[i]),
                (0, 10),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=INK,
            )
        axes.margins(y=0.14)


def _draw_bytes(axes: Axes, profile: Profile) -> None:
    points = profile.split_points
    where = np.arange(len(points))
    axes.step(
        where,
        [p.nbytes for p in points],
        where="mid",
        color=MUTED,
        linewidth=1,
        label="as it is (fp32)",
    )
    plain = [
        measure.nbytes if (measure := profile.measurement(Cut(p.name, "uint8+zstd"))) else np.nan
        for p in points
    ]
    best = np.full(len(points), np.nan)
    for measure in faithful(profile.measurements):
        if measure.split_point not in (INPUT, OUTPUT):
            at = profile.point_index(measure.split_point)
            best[at] = np.fmin(best[at], measure.nbytes)
    for number, label, values in (
        (2, "uint8+zstd", np.asarray(plain)),
        (0, "smallest that agrees on 99 %", best),
    ):
        known = np.isfinite(values)
        if known.any():
            axes.plot(
                where[known], values[known], color=SERIES[number], marker=MARKERS[number], markersize=4, linewidth=1.2,
                label=label,
            )  # fmt: skip
    jpeg = profile.measurement(Cut(INPUT, "jpeg"))
    if jpeg is not None:
        axes.axhline(
            jpeg.nbytes,
            color=SERIES[1],
            linestyle=(0, (5, 2)),
            linewidth=1.4,
            label="JPEG of the crop",
        )
        below = best < jpeg.nbytes
        axes.plot(
            where[below], best[below], "o", color=SERIES[0], markersize=9, alpha=0.3, markeredgewidth=0,
            label="smaller than the JPEG",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(_bytes_label)
    _legend(axes)


def _bytes_label(value: float, _: object = None) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"


def _legend(axes: Axes) -> None:
    """Above the panel, in as many columns as the labels leave room for."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [_short(label, 34) for label in labels]
    if not labels:
        return
    figure = axes.get_figure(root=True)
    room = (figure.get_figwidth() if figure is not None else 8.0) * 72 - 60
    columns = min(5, len(labels), max(1, int(room / (5.2 * max(map(len, labels)) + 36))))
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0
    )
    axes.set_title(axes.get_title(loc="left"), pad=8 + 15 * -(-len(labels) // columns))


def _block_indices(points: Sequence[SplitPoint]) -> list[int]:
    return [int(i) for i in candidate_points(points, "blocks")[0]]


def _name_points(axes: Axes, points: Sequence[SplitPoint]) -> None:
    """Names along the axis: all where they fit, else block outputs, else every n-th of them."""
    named = list(range(len(points)))
    if len(named) > _MAX_LABELS:
        named = _block_indices(points)
    named = named[:: max(1, -(-len(named) // _MAX_LABELS))]
    axes.set_xticks(named, [_short(points[i].name) for i in named], rotation=90, fontsize=7.5)
    axes.set_xlim(-0.6, len(points) - 0.4)
    for i in _block_indices(points):
        axes.axvline(i, color=GRID, linewidth=0.4, zorder=0)
    axes.grid(axis="x", visible=False)


def _short(name: str, longest: int = 26) -> str:
    return name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-longest // 2 :]}"
