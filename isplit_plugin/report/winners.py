"""The grid of winners as a picture: for a terminal, and as a section of a page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ..advice import WinnerCell, WinnerGrid, winner_grid
from ..profile import Profile
from ..schema import INPUT, OUTPUT, TRANSFORM_CODEC, Cut
from ..terminal import table
from .figures import styled
from .page import Page
from .style import INK, SERIES, SURFACE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["add_winners", "winner_figure", "winner_sentences", "winner_text", "without_transforms"]

_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_COLOURS: Final = {INPUT: SERIES[1], OUTPUT: SERIES[4]}
_FAINT: Final = 0.22
_LONGEST_NAME: Final = 14


def winner_text(grid: WinnerGrid) -> str:
    """The grid for a terminal: sentences, one line for each uplink, and what its letters mean.

    A cell where a split wins has the split point's letter and the gain, the others `input` or
    `output`. A star marks a cut that the photos of the calibration set leave undecided.
    """
    letters = _letters(grid)
    rows = [
        (f"{uplink:g} Mbit/s", *(_cell_text(cell, letters) for cell in grid.row(number)))
        for number, uplink in enumerate(grid.uplinks)
    ]
    header = ("uplink", *(f"{slowdown:g}x" for slowdown in grid.slowdowns))
    names = ["columns: how many times slower the device is", "number: the gain"][
        : 1 + bool(letters)
    ]
    names += [f"{letter}: {name}" for name, letter in letters.items()]
    names += [f"{INPUT}: the photo", f"{OUTPUT}: the whole network on the device"]
    if any(cell.winner is not None and cell.winner.undecided for cell in grid.cells):
        names.append("*: undecided, more photos would tell")
    return "\n".join([*winner_sentences(grid), table(header, rows), "; ".join(names)])


def winner_sentences(grid: WinnerGrid) -> list[str]:
    """In how many cells a split wins, and by how much."""
    links = f"{min(grid.uplinks):g} to {max(grid.uplinks):g} Mbit/s"
    devices = f"{min(grid.slowdowns):g} to {max(grid.slowdowns):g} times slower"
    where = (
        f"{len(grid.cells)} cells ({links}, {grid.rtt_ms:g} ms round trip; devices {devices} than "
        "the server)"
    )
    if not grid.wins:
        return [f"No split wins in any of {where}."]
    sentence = f"A split wins in {len(grid.wins)} of {where}."
    if not grid.gains:
        return [sentence, "There is no photo and no whole network to compare it with."]
    return [
        sentence,
        "There the better of the best photo and the whole network on the device takes "
        f"{statistics.median(grid.gains):.2f} times as long in the median, at most "
        f"{grid.gains[-1]:.2f} times.",
    ]


def add_winners(page: Page, profile: Profile) -> None:
    """The section of a profile; nothing where no time is known."""
    grid = winner_grid(profile)
    if all(cell.winner is None for cell in grid.cells):
        return
    page.section("Where a split wins")
    page.text(*winner_sentences(grid))
    page.figure(
        winner_figure(grid),
        alt=" ".join(winner_sentences(grid)),
        caption="The fastest faithful cut for each uplink and device, by predicted latency. The "
        "number is the gain: how many times as long the better of the best photo and the whole "
        "network on the device takes. A star marks a cut that is undecided.",
    )
    first = winner_grid(profile, splits=without_transforms)
    if any(
        cell.split is not None and cell.split.cut.codec == TRANSFORM_CODEC for cell in grid.wins
    ):
        page.text(f"Without the codec dct, a split would win in {len(first.wins)} cells.")


def without_transforms(cut: Cut) -> bool:
    """Whether a cut does without the codec ``dct``."""
    return cut.codec != TRANSFORM_CODEC


@styled
def winner_figure(grid: WinnerGrid) -> Figure:
    """One coloured square for each cell: the winner, and the gain where it is a split."""
    from matplotlib.figure import Figure as NewFigure

    columns, rows = len(grid.slowdowns), len(grid.uplinks)
    figure = NewFigure(figsize=(1.6 + 1.05 * columns, 1.1 + 0.55 * rows), layout="constrained")
    axes = figure.subplots()
    for number, cell in enumerate(grid.cells):
        row, column = divmod(number, columns)
        name = "" if cell.winner is None else cell.winner.cut.split_point
        colour = _COLOURS.get(name, SERIES[0])
        axes.fill_between(
            [column - 0.48, column + 0.48],
            row - 0.47,
            row + 0.47,
            color=colour if name else SURFACE,
            alpha=0.55 if cell.split_wins else _FAINT,
            linewidth=0,
        )
        axes.text(column, row, _square(cell), ha="center", va="center", fontsize=8, color=INK)
    axes.set_xticks(range(columns), [f"{slowdown:g}x" for slowdown in grid.slowdowns])
    axes.set_yticks(range(rows), [f"{uplink:g}" for uplink in grid.uplinks])
    axes.set_xlabel("device: times slower than the machine that made the profile")
    axes.set_ylabel("uplink, Mbit/s")
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.grid(visible=False)
    return figure


def _letters(grid: WinnerGrid) -> Mapping[str, str]:
    """Split point -> its letter, in the order of the number of cells."""
    return dict(zip(grid.split_points, _LETTERS, strict=False))


def _cell_text(cell: WinnerCell, letters: Mapping[str, str]) -> str:
    if cell.winner is None:
        return "-"
    name = cell.winner.cut.split_point
    star = "*" if cell.winner.undecided else ""
    gain = f" {cell.gain:.2f}" if cell.split_wins and cell.rival is not None else ""
    return f"{letters.get(name, name)}{gain}{star}"


def _square(cell: WinnerCell) -> str:
    if cell.winner is None:
        return "?"
    star = "*" if cell.winner.undecided else ""
    name = cell.winner.cut.split_point
    if not cell.split_wins:
        return f"{name}{star}"
    short = name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME :]}"
    gain = "" if cell.rival is None else f"\n{cell.gain:.2f}x"
    return f"{short}{star}{gain}"
