"""A self-contained HTML page of text, tables and figures.

It follows the reader's light or dark mode and fits a phone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from ..errors import ArtifactError
from ..files import write_atomically
from .style import CSS, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Cell", "Page"]

_LONG: Final = 40
"""Text cells with more characters than this may wrap."""

Cell = str | int | float | None
"""Text or a number. Numbers are aligned right; ``None`` and NaN show as a dash."""


class Page:
    """A page that is built from top to bottom.

    Every method that adds something returns the page. All text is escaped.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self._title = title
        self._subtitle = subtitle
        self._sections: list[str] = []
        self._parts: list[str] = []
        self._figures = 0

    def section(self, heading: str, *, level: int = 2) -> Self:
        """A heading. Those of level 2 appear in the table of contents."""
        if level == 2:
            self._sections.append(heading)
            self._parts.append(f'<h2 id="s{len(self._sections)}">{escape(heading)}</h2>')
        else:
            self._parts.append(f"<h3>{escape(heading)}</h3>")
        return self

    def text(self, *paragraphs: str) -> Self:
        """Paragraphs of plain text."""
        self._parts += [f"<p>{escape(p)}</p>" for p in paragraphs]
        return self

    def code(self, text: str) -> Self:
        """Preformatted text, such as a command or an answer."""
        self._parts.append(f"<pre><code>{escape(text)}</code></pre>")
        return self

    def facts(self, facts: Iterable[tuple[Cell, str]]) -> Self:
        """Large tiles, each with a value and what it means."""
        tiles = "".join(
            f"<div><b>{_show(value)}</b><span>{escape(what)}</span></div>" for value, what in facts
        )
        self._parts.append(f'<div class="facts">{tiles}</div>')
        return self

    def table(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[Cell]],
        *,
        caption: str = "",
        marked: Collection[int] = (),
        folded: str = "",
    ) -> Self:
        """A table.

        Parameters:
            marked: indices of the rows to highlight.
            folded: the text to click on to open the table; without it, the table is open.
        """
        body = list(rows)
        for index, row in enumerate(body):
            if len(row) != len(header):
                raise ValueError(f"row {index} has {len(row)} cells, the header {len(header)}")
        # A column is numeric if all its cells are numbers or empty. It is aligned right.
        numeric = [
            all(isinstance(row[i], int | float) or row[i] is None for row in body) and bool(body)
            for i in range(len(header))
        ]
        head = "".join(
            f"<th{_right(n)}>{escape(h)}</th>" for h, n in zip(header, numeric, strict=True)
        )
        lines = []
        for index, row in enumerate(body):
            cells = "".join(
                f"<td{_kind(n, c)}>{_show(c)}</td>" for c, n in zip(row, numeric, strict=True)
            )
            lines.append(
                f'<tr class="marked">{cells}</tr>' if index in marked else f"<tr>{cells}</tr>"
            )
        title = f"<caption>{escape(caption)}</caption>" if caption else ""
        table = (
            f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div>"
        )
        self._parts.append(
            f"<details><summary>{escape(folded)}</summary>{table}</details>" if folded else table
        )
        return self

    def figure(self, figure: Figure, *, alt: str, caption: str = "") -> Self:
        """A matplotlib figure as inline SVG.

        Figures in the colours of :mod:`~isplit_plugin.report.style` follow light and dark mode.

        Parameters:
            alt: what the figure shows, in words.
        """
        self._figures += 1
        width = figure.get_figwidth() * 96
        svg = to_svg(figure, prefix=f"f{self._figures}-")
        note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        self._parts.append(
            f'<figure><div class="scroll"><div role="img" aria-label="{escape(alt)}" '
            f'style="min-width:{0.85 * width:.0f}px;max-width:{1.15 * width:.0f}px">{svg}</div></div>'
            f"{note}</figure>"
        )
        return self

    def html(self) -> str:
        """The whole page."""
        subtitle = f'<p class="subtitle">{escape(self._subtitle)}</p>' if self._subtitle else ""
        links = "".join(
            f'<a href="#s{i}">{escape(s)}</a>' for i, s in enumerate(self._sections, start=1)
        )
        contents = f"<nav>{links}</nav>" if len(self._sections) > 2 else ""
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            # The page loads and runs nothing, even if an unescaped text should get into it.
            '<meta http-equiv="Content-Security-Policy" content="'
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
            f"<title>{escape(self._title)}</title><style>{CSS}</style></head>\n"
            f"<body><main><header><h1>{escape(self._title)}</h1>{subtitle}</header>{contents}\n"
            + "\n".join(self._parts)
            + "\n</main></body></html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page and return its path. Raises ArtifactError and leaves no partial file."""
        target = Path(path)
        try:
            write_atomically(target, self.html().encode(errors="replace"))
        except OSError as error:
            raise ArtifactError(
                f"{target}: cannot write the page ({error.strerror or error})"
            ) from error
        return target


def _right(numeric: bool) -> str:
    return ' class="n"' if numeric else ""


def _kind(numeric: bool, cell: Cell) -> str:
    return ' class="w"' if isinstance(cell, str) and len(cell) > _LONG else _right(numeric)


def _show(cell: Cell) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "\u2013"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}".replace(
            ",", "\u202f"
        )  # a thin space: no locale reads it as a decimal point
    if isinstance(cell, float):
        return escape(
            f"{cell:.3g}" if not 1000 <= abs(cell) < 1e15 else f"{cell:,.0f}".replace(",", "\u202f")
        )
    return escape(cell)
