"""The grid of winners for a terminal and for a page."""

from __future__ import annotations

import dataclasses

from toys import advice as toys
from toys.report import make_profile

from isplit_plugin.advice import WinnerGrid, winner_grid
from isplit_plugin.profile import CutMeasurement
from isplit_plugin.report import profile_page, winner_figure, winner_sentences, winner_text
from isplit_plugin.report.style import to_svg

ALL = (100, 100, 100)
PHOTO = toys.measure("input", "jpeg@90", 16_000, ALL, ALL)
OUTPUT = toys.measure("output", "none", 0, ALL, ALL)
SPLIT = toys.measure("d", "dct@3", 2_000, ALL, ALL)


def grid(*measurements: CutMeasurement) -> WinnerGrid:
    return winner_grid(
        toys.profile(measurements=measurements), uplinks=(0.5, 50), slowdowns=(1, 32)
    )


def test_a_terminal_shows_each_cell() -> None:
    lines = winner_text(grid(PHOTO, SPLIT, OUTPUT)).splitlines()
    assert lines[0].startswith("A split wins in 1 of 4 cells")
    # 16 + 256 + 30.25 ms of the photo, by 144 + 32 + 26.25.
    assert "1.49 times as long in the median" in lines[1]
    assert [line.split() for line in lines[4:6]] == [
        ["0.5", "Mbit/s", "output", "A", "1.49"],
        ["50", "Mbit/s", "output", "input"],
    ]
    assert "A: d" in lines[-1]


def test_doubts_and_missing_rivals_are_told() -> None:
    doubtful = toys.measure("d", "dct@3", 2_000, (19, 20, 20), (20, 20, 20))
    text = winner_text(grid(PHOTO, doubtful, OUTPUT))
    assert "A 1.49*" in text
    assert "*: undecided" in text
    assert winner_sentences(grid(PHOTO, OUTPUT))[0].startswith("No split wins in any of 4 cells")
    assert "no photo and no whole network" in winner_sentences(grid(SPLIT))[1]
    assert winner_text(grid()).count("-") >= 4


def test_the_figure_has_a_square_and_a_text_for_each_cell() -> None:
    svg = to_svg(winner_figure(grid(PHOTO, SPLIT, OUTPUT)))
    assert "1.49x" in svg
    assert svg.count(">output</text>") == 2


def test_a_page_shows_where_a_split_wins_and_what_dct_brings() -> None:
    profile = toys.profile(measurements=(PHOTO, SPLIT, OUTPUT))
    html = profile_page(profile).html()
    assert "Where a split wins" in html
    assert "Without the codec dct, a split would win in 0 cells." in html
    assert "Where a split wins" in profile_page(make_profile()).html()
    timeless = dataclasses.replace(profile, head_ms={}, tail_ms={})
    assert "Where a split wins" not in profile_page(timeless).html()
