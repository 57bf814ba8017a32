"""The figures of a report: curves of importance, bytes and times over the split points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..advice import best_photo, candidate_points, is_faithful, local_maxima
from ..profile import CutMeasurement, Profile
from ..schema import INPUT, OUTPUT, Cut, SplitPoint
from .style import GRID, INK, MARKERS, MUTED, RC, SERIES, SURFACE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Line",
    "candidates",
    "class_figure",
    "curve_figure",
    "faithful",
    "overview_figure",
    "styled",
]

TITLE: Final = "Importance (log10 CUI)"
DECADES: Final = 7
"""Decades of importance that are drawn. Lower values, and zeros, are drawn below them."""
_MAX_LABELS: Final = 72

Floats = npt.NDArray[np.float64]


class Line(NamedTuple):
    """A curve over P split points.

    ``mean`` and ``standard_error`` have shape (P,); NaN where a value is not known.
    """

    label: str
    mean: Floats
    standard_error: Floats | None = None


def candidates(points: Sequence[SplitPoint], mean: Floats) -> list[int]:
    """Indices of the strict interior local maxima of log CUI over the block outputs.

    In a network without block outputs, over all split points.
    """
    members, _ = candidate_points(points, "blocks")
    return [int(i) for i in members[local_maxima(np.asarray(mean, dtype=np.float64)[members])]]


def faithful(measurements: Sequence[CutMeasurement]) -> list[CutMeasurement]:
    """The measurements that keep 99 % of the answers, as far as the images can tell."""
    return [m for m in measurements if is_faithful(m)]


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw a figure in the style of the pages."""

    @wraps(draw)
    def wrapped(*args: Any, **kwargs: Any) -> Figure:
        import matplotlib

        with matplotlib.rc_context(RC):
            return draw(*args, **kwargs)

    return wrapped


@styled
def overview_figure(profile: Profile) -> Figure:
    """Three panels over all split points: importance, bytes of one image, and head time.

    Stars mark the candidates for a bottleneck.
    """
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


@styled
def class_figure(profile: Profile, class_ids: Sequence[int]) -> Figure:
    """Curves of up to six classes over the block outputs, each with its candidates starred."""
    members, _ = candidate_points(profile.split_points, "blocks")
    lines = []
    for class_id in list(class_ids)[: len(SERIES)]:
        mean, error, n = profile.curve([class_id])
        lines.append(Line(f"{profile.classes[class_id]} ({n})", mean[members], error[members]))
    overall = profile.curve()
    ground = Line(f"all ({overall.n})", overall.mean[members], None)
    return _curves([profile.split_points[int(i)] for i in members], lines, ground=ground)


@styled
def curve_figure(
    points: Sequence[SplitPoint],
    lines: Sequence[Line],
    *,
    ground: Line | None = None,
    title: str = TITLE,
) -> Figure:
    """Up to six curves over ``points``, with local maxima starred.

    ``ground`` is drawn behind them, for comparison.
    """
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
    for panel in axes:
        panel.tick_params(length=0)
        panel.margins(x=0.015)
    return figure, list(axes)


def _log(mean: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """log10 of the values, with a floor, and a mask of the values below the floor. NaN stays NaN.

    The floor lies ``DECADES`` below the highest value.
    """
    mean = np.asarray(mean, dtype=np.float64)
    known = mean[np.isfinite(mean) & (mean > 0)]
    if not len(known):
        return np.where(np.isfinite(mean), 0.0, np.nan), np.isfinite(mean)
    floor = max(float(known.min()), float(known.max()) * 10.0**-DECADES)
    low = np.isfinite(mean) & (mean < floor)
    # Low values are drawn half a decade below the others: visibly lower, on a short axis.
    return np.log10(np.where(low, floor * 10**-0.5, mean)), low


def _draw_line(axes: Axes, line: Line, number: int, *, at: Sequence[int] | None = None) -> None:
    """One curve with its 95 % band, through the points ``at``; by default through all."""
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
        bottom, top = _band(line.mean, line.standard_error)
        axes.fill_between(where, bottom[where], top[where], color=colour, alpha=0.16, linewidth=0)


def _band(mean: Floats, standard_error: Floats) -> tuple[Floats, Floats]:
    """The 95 % interval of the mean, in log10; no width where the value is below the floor."""
    logs, low = _log(mean)
    error = 1.96 * np.nan_to_num(np.asarray(standard_error, dtype=np.float64))
    floor = 10.0 ** float(np.nanmin(logs)) if np.isfinite(logs).any() else 1.0
    bottom = np.where(low, logs, np.log10(np.maximum(mean - error, floor)))
    top = np.where(low, logs, np.log10(np.maximum(mean + error, floor)))
    return bottom, top


def _stars(
    axes: Axes, points: Sequence[SplitPoint], mean: Floats, colour: str, *, named: bool
) -> None:
    starred = candidates(points, mean)
    logs, _ = _log(mean)
    axes.plot(
        starred,
        logs[starred],
        "*",
        color=colour,
        markersize=15,
        markeredgecolor=SURFACE,
        markeredgewidth=0.8,
        label="_candidates",
        zorder=5,
    )
    if named:
        for i in starred:
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
    raw = np.asarray([point.nbytes for point in profile.split_points], dtype=np.float64)
    axes.step(
        np.arange(len(raw)), raw, where="mid", color=MUTED, linewidth=1, label="as it is (fp32)"
    )
    smallest = _smallest_faithful(profile)
    _draw_known(axes, 2, "uint8+zstd", _codec_bytes(profile, "uint8+zstd"))
    _draw_known(axes, 0, "smallest that agrees on 99 %", smallest)
    photo = best_photo(profile)
    if photo is not None:
        _draw_photo(axes, photo.measurement, smallest)
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(_bytes_label)
    _legend(axes)


def _codec_bytes(profile: Profile, codec: str) -> Floats:
    """Bytes of one codec at every split point, NaN where it was not measured."""
    measurements = [profile.measurement(Cut(point.name, codec)) for point in profile.split_points]
    return np.asarray([np.nan if m is None else m.nbytes for m in measurements], dtype=np.float64)


def _smallest_faithful(profile: Profile) -> Floats:
    """Bytes of the smallest faithful codec at every split point, NaN where there is none."""
    smallest = np.full(len(profile.split_points), np.nan)
    for measurement in faithful(profile.measurements):
        if measurement.split_point not in (INPUT, OUTPUT):
            i = profile.point_index(measurement.split_point)
            smallest[i] = np.fmin(smallest[i], measurement.nbytes)
    return smallest


def _draw_known(axes: Axes, number: int, label: str, values: Floats) -> None:
    """A line through the values that are known, if any is."""
    where = np.flatnonzero(np.isfinite(values))
    if len(where):
        axes.plot(
            where,
            values[where],
            color=SERIES[number],
            marker=MARKERS[number],
            markersize=4,
            linewidth=1.2,
            label=label,
        )


def _draw_photo(axes: Axes, photo: CutMeasurement, smallest: Floats) -> None:
    """The best photo's size as a line, and a mark on every split point that takes fewer bytes."""
    axes.axhline(
        photo.nbytes,
        color=SERIES[1],
        linestyle=(0, (5, 2)),
        linewidth=1.4,
        label=f"best photo: {photo.cut.coding}",
    )
    below = np.flatnonzero(smallest < photo.nbytes)
    axes.plot(
        below,
        smallest[below],
        "o",
        color=SERIES[0],
        markersize=9,
        alpha=0.3,
        markeredgewidth=0,
        label="smaller than the best photo",
    )


def _bytes_label(value: float, _: object = None) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"


def _legend(axes: Axes) -> None:
    """A legend above the panel, in as many columns as fit."""
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
    """Names along the axis: all if they fit, else the block outputs, else every n-th of these."""
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
