"""The page of a model's exits: for each cut, which classes devices answer by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..terminal import NO_EXIT_KEY, NO_EXIT_TRAFFIC, utc_time
from .figures import styled
from .page import Cell, Page
from .style import INK, MUTED, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["add_exits", "exit_figure", "write_exits"]

Listing = Mapping[str, Any]
"""The endpoint's answer to a question for a model's exits."""

_MOST_BARS: Final = 20
_HEADER: Final = (
    "class",
    "state",
    "shadow answers",
    "missing",
    "share released",
    "answered by devices",
    "MB saved",
    "s saved",
    "audited",
    "disagree",
    "at least",
    "at most",
)


def write_exits(path: str | Path, listing: Listing) -> Path:
    """Write the page of a listing and return its path.

    Raises ArtifactError if it cannot be written.
    """
    page = Page("Answers at the device", f"{listing['model']} {listing['version']}")
    whose = "together they disagree" if listing["promise"] == "together" else "each disagrees"
    page.text(
        "An exit answers on the device, from what the head has computed. Classes are released when "
        f"their shadow answers prove that {whose} with the full network in at most "
        f"{listing['tolerance']:.2%} of their photos, with a risk of {listing['alpha']:.0%}."
    )
    return add_exits(page, listing).write(path)


def add_exits(page: Page, listing: Listing) -> Page:
    """A section for each cut: its classes, those that are released first."""
    if not listing["signing"]:
        page.text(NO_EXIT_KEY)
    for cut in listing["exits"]:
        page.section(f"Exit at {cut['cut']}")
        if cut["versions"]:
            _add_version(page, cut["versions"][0])
        else:
            _add_evidence(page, cut)
    if not listing["exits"]:
        page.text(NO_EXIT_TRAFFIC)
    return page


@styled
def exit_figure(classes: Sequence[Mapping[str, Any]]) -> Figure:
    """How far each class is: the share of its shadow answers that it has of those it needs.

    Released classes have the share of their photos that devices answer instead.
    """
    from matplotlib.figure import Figure as NewFigure

    shown = _by_progress(classes)[:_MOST_BARS]
    figure = NewFigure(figsize=(7.2, 0.9 + 0.28 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for row, of_class in enumerate(shown):
        released = of_class["share"] > 0
        share = of_class["share"] if released else of_class["proof"]
        axes.barh(
            row, share, color=SERIES[0] if released else MUTED, alpha=0.75 if released else 0.35
        )
        text = f"{share:.0%} answered" if released else f"{share:.0%} of the proof"
        axes.text(min(share, 0.75) + 0.01, row, text, va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(shown)), [str(of_class["label"])[:30] for of_class in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share")
    axes.grid(visible=False, axis="y")
    return figure


def _add_version(page: Page, version: Mapping[str, Any]) -> None:
    if version["state"] == "damaged":
        page.text(f"Version {version['exit'][:16]} is damaged: {version['reason']}")
        return
    classes = _by_progress(version["classes"])
    released = [of_class for of_class in classes if of_class["share"] > 0]
    page.facts(
        [
            (f"{len(released)} of {len(classes)}", "classes released"),
            (round(sum(c["exits"] for c in classes)), "photos that devices answered (estimated)"),
            (f"{version['share']:.0%}", "of the photos with an exit's answer are released"),
            (f"{_sum(classes, 'bytes_saved') / 1e6:.2f} MB", "not sent (estimated)"),
            (f"{_sum(classes, 'ms_saved') / 1e3:.1f} s", "saved (estimated)"),
            (version["state"], f"version {version['exit'][:16]}"),
        ]
    )
    page.text(
        f"Devices may answer by release {version['release']} until "
        f"{utc_time(version['released_until'])}."
    )
    if classes:
        more = f" Shown are {_MOST_BARS} of {len(classes)}." if len(classes) > _MOST_BARS else ""
        page.figure(
            exit_figure(classes),
            alt="For each class, the share of its photos that devices answer, or how much of the "
            "proof is there",
            caption=f"Blue: devices answer. Grey: shadow answers, of those that are needed.{more}",
        )
    page.table(_HEADER, [_row(of_class) for of_class in classes])


def _add_evidence(page: Page, cut: Mapping[str, Any]) -> None:
    page.text(f"No exit yet: {cut['photos']:,} photos are in the sums.")
    names = ("label", "photos", "devices", "missing_photos", "missing_devices")
    page.table(
        ("class", "photos", "devices", "photos missing", "devices missing"),
        [[of_class[name] for name in names] for of_class in cut["evidence"]],
    )


def _row(of_class: Mapping[str, Any]) -> list[Cell]:
    audited = of_class["disagreement"] is not None
    return [
        of_class["label"],
        of_class["state"],
        of_class["shadow"],
        of_class["missing"],
        f"{of_class['share']:.0%}",
        round(of_class["exits"]),
        round(of_class["bytes_saved"] / 1e6, 3),
        round(of_class["ms_saved"] / 1e3, 1),
        of_class["audited"],
        f"{of_class['disagreement']:.1%}" if audited else None,
        f"{of_class['disagreement_low']:.1%}" if audited else None,
        f"{of_class['disagreement_high']:.1%}" if audited else None,
    ]


def _by_progress(classes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(classes, key=lambda c: (c["share"], c["proof"]), reverse=True)


def _sum(classes: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(sum(of_class[name] for of_class in classes))
