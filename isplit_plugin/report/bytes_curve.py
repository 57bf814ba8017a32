"""The bytes curve: agreement against bytes, of photos and of the codecs at split points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ..advice import best_photo, photos_needed, smallest_codec
from ..profile import CutMeasurement, Profile
from ..schema import INPUT, OUTPUT, PHOTO_FILE
from ..terminal import kilobytes, table
from .figures import styled
from .page import Page
from .style import INK, MARKERS, MUTED, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["add_bytes_curve", "bytes_curve_figure", "bytes_curve_text"]

LEVELS: Final = (0.95, 0.97, 0.98, 0.99, 1.0)
"""The agreements of the table in a terminal."""
_MOST_POINTS: Final = 3
_LOWEST: Final = 0.8


def curves(profile: Profile) -> dict[str, list[CutMeasurement]]:
    """What is drawn: the name of a curve -> its measurements, by bytes.

    The photos come first, one curve for each format. Of the split points with a codec of several
    qualities (of all, where there is none) those with the smallest faithful codecs follow, each with
    all its codecs.
    """
    chosen: dict[str, list[CutMeasurement]] = {}
    for measurement in sorted(profile.measurements, key=lambda m: m.nbytes):
        if measurement.cut.is_photo and measurement.codec != PHOTO_FILE:
            chosen.setdefault(f"photo, {measurement.codec}", []).append(measurement)
    splits: dict[str, list[CutMeasurement]] = {}
    for measurement in sorted(profile.measurements, key=lambda m: m.nbytes):
        if measurement.split_point not in (INPUT, OUTPUT):
            splits.setdefault(measurement.split_point, []).append(measurement)
    rated = {
        name: own for name, own in splits.items() if any(m.cut.quality is not None for m in own)
    }
    order = [point.name for point in profile.split_points]
    smallest = {name: smallest_codec(profile, name) for name in rated or splits if name in order}
    sizes = {name: codec.measurement.nbytes for name, codec in smallest.items() if codec}
    for name in sorted(sorted(sizes, key=sizes.__getitem__)[:_MOST_POINTS], key=order.index):
        chosen[name] = splits[name]
    return chosen


def bytes_curve_text(profile: Profile) -> str:
    """The fewest bytes for each agreement, in a table: the photo beside split points."""
    own = curves(profile)
    photos = [m for name, of_name in own.items() if name.startswith("photo, ") for m in of_name]
    columns = {"photo": photos} | {n: of for n, of in own.items() if not n.startswith("photo, ")}
    rows = []
    for level in LEVELS:
        cells = [f"{level:.0%}"]
        for measurements in columns.values():
            enough = [m for m in measurements if m.agreement >= level - 1e-9]
            least = min(enough, key=lambda m: m.nbytes, default=None)
            cells.append("-" if least is None else f"{kilobytes(least.nbytes)} {least.cut.coding}")
        rows.append(cells)
    return table(("agreement of at least", *columns), rows)


def add_bytes_curve(page: Page, profile: Profile) -> None:
    """The section of a profile; nothing where no split was measured."""
    drawn = curves(profile)
    if all(name.startswith("photo, ") for name in drawn):
        return
    page.section("Bytes against agreement")
    page.figure(
        bytes_curve_figure(profile),
        alt=f"Agreement against bytes of {', '.join(drawn)}",
        caption="Each mark is one coding on the calibration set. Left and up is better. The dashed "
        "lines are the best photo, which every split has to beat, and 99 % agreement. Marks below "
        f"{_LOWEST:.0%} are left out.",
    )


@styled
def bytes_curve_figure(profile: Profile) -> Figure:
    """Agreement (linear) against bytes (logarithmic), with the best photo as a line."""
    from matplotlib.figure import Figure as NewFigure
    from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullFormatter

    figure = NewFigure(figsize=(8.0, 4.2), layout="constrained")
    axes = figure.subplots()
    _draw(axes, curves(profile))
    photo = best_photo(profile)
    if photo is not None:
        axes.axvline(photo.measurement.nbytes, color=MUTED, linestyle=(0, (5, 2)), linewidth=1.2)
        doubt = "" if photos_needed(photo.measurement) is None else ", undecided"
        axes.annotate(
            f"best photo: {photo.measurement.cut.coding}{doubt}",
            (photo.measurement.nbytes, _LOWEST),
            (4, 4),
            textcoords="offset points",
            fontsize=8,
            color=INK,
        )
    axes.axhline(0.99, color=MUTED, linestyle=(0, (2, 2)), linewidth=1.0)
    axes.set_xscale("log")
    axes.set_ylim(_LOWEST, 1.005)
    axes.set_xlabel("bytes for one image")
    axes.set_ylabel("agreement with the full network")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MultipleLocator(0.05))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    figure.legend(loc="outside lower center", ncols=3)  # inside it would hide marks
    return figure


def _draw(axes: Axes, drawn: Mapping[str, Sequence[CutMeasurement]]) -> None:
    for number, (name, measurements) in enumerate(list(drawn.items())[: len(SERIES)]):
        shown = [m for m in measurements if m.agreement >= _LOWEST]
        # matplotlib hides labels that begin with an underscore, as names of split points may.
        title = name if name.startswith("photo, ") else f"split at {name}"
        rated = [m for m in shown if m.cut.quality is not None]
        others = [m for m in shown if m.cut.quality is None]
        for own, line, label in (
            (rated, "solid", title),
            (others, "none", f"{title}, other codecs" if rated else title),
        ):
            if own:
                axes.plot(
                    [m.nbytes for m in own],
                    [m.agreement for m in own],
                    linestyle=line,
                    alpha=1.0 if line == "solid" else 0.45,
                    label=label,
                    color=SERIES[number],
                    marker=MARKERS[number],
                    markersize=4,
                )
