"""The page of exits, from the endpoint's listing."""

from __future__ import annotations

import re
from pathlib import Path

from matplotlib.patches import Rectangle
from toys.exit_listing import RELEASED, cut, listing, of_class

from isplit_plugin.report import exit_figure, write_exits
from isplit_plugin.terminal import NO_EXIT_KEY, NO_EXIT_TRAFFIC, exits_text


def test_released_classes_come_first_with_what_they_save(tmp_path: Path) -> None:
    unknown = of_class("newt", shadow=0, proof=0.0)
    page = write_exits(
        tmp_path / "exits.html", listing(cut(of_class("dog"), unknown, RELEASED))
    ).read_text()
    assert "1 of 3" in page
    assert "3.50 MB" in page
    assert "at most 1.00% of their photos, with a risk of 5%" in page
    assert "62.0 s" in page
    assert "40%" in page
    assert "0.1%" in page
    assert page.index("cat &lt;tabby&gt;</td>") < page.index("dog</td>") < page.index("newt</td>")
    assert "0.5%" in page
    assert "2.0%" in page


def test_the_figure_shows_the_share_of_the_proof() -> None:
    figure = exit_figure([of_class("dog"), RELEASED])
    (axes,) = figure.axes
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    assert [bar.get_width() for bar in bars] == [0.75, 0.25]
    assert [text.get_text() for text in axes.texts] == ["75% answered", "25% of the proof"]


def test_what_is_missing_before_there_is_an_exit(tmp_path: Path) -> None:
    page = write_exits(tmp_path / "exits.html", listing(cut())).read_text()
    assert "No exit yet: 140 photos are in the sums." in page
    assert "<td" in page
    assert "dog" in page


def test_an_endpoint_without_key_or_traffic_says_so(tmp_path: Path) -> None:
    page = write_exits(tmp_path / "exits.html", listing(signing=False)).read_text()
    text = exits_text(listing(signing=False))
    for sentence in (NO_EXIT_KEY, NO_EXIT_TRAFFIC):
        assert sentence in page
        assert sentence in " ".join(text.split())


def test_the_terminal_says_what_is_released_missing_and_saved() -> None:
    text = exits_text(listing(cut(of_class("dog"), RELEASED)))
    assert "40% of the photos with an exit's answer are released" in text
    assert "about 2,000 answered so far, which saved 3,500.0 KB and 62.0 s" in text
    assert re.search(r"dog +shadow +100 +300 ", text)
    assert re.search(r"released +100 +0 +75% +2,000 .* 0.5% \(0.1% to 2.0%\)", text)


def test_a_version_that_is_damaged_is_named_and_ends_no_other(tmp_path: Path) -> None:
    damaged = cut(RELEASED)
    damaged["versions"] = [{"exit": "b" * 64, "state": "damaged", "reason": "no <state>"}]
    both = listing(damaged, cut(RELEASED))
    assert "exit bbbbbbbbbbbbbbbb is damaged: no <state>" in exits_text(both)
    assert "62.0 s" in exits_text(both)
    page = write_exits(tmp_path / "exits.html", both).read_text()
    assert "Version bbbbbbbbbbbbbbbb is damaged: no &lt;state&gt;" in page
    assert "62.0 s" in page
