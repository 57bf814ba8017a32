"""Progress of long work on calibration images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "reporter"]

Progress = Callable[[int, int | None], None]
"""Called with the number of images done, and of all images where it is known."""


@contextmanager
def reporter(
    progress: bool | Progress | None, total: int | None, label: str
) -> Iterator[Callable[[int], None]]:
    """A function that shows or passes on the number of images done.

    ``label``: what stands in front of the bar.
    """
    if progress is True:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn(label),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda done: bar.update(task, completed=done)
    elif progress:
        yield lambda done: progress(done, total)
    else:
        yield lambda done: None
