"""What the demo says of its exit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toys.exit_listing import RELEASED, cut, listing

from isplit_plugin.demo.exits import Exits
from isplit_plugin.report import Page
from isplit_plugin.schema import Cut


def row(path: str, total_ms: float, predicted_class: int = 1) -> dict[str, Any]:
    return {
        "path": path,
        "total_ms": total_ms,
        "true_class": 1,
        "predicted_class": predicted_class,
    }


def exits(*rows: dict[str, Any]) -> Exits:
    known = listing(cut(RELEASED))
    return Exits(Cut.parse("layer2:dct@3"), ("cat", "dog"), 48, rows, audits=2, listing=known)


def test_photos_are_sent_until_the_exit_is_proven(tmp_path: Path) -> None:
    sent = [row("server", 50.0)] * 5
    told = exits(*sent, row("exit", 10.0), row("server", 30.0), row("exit", 12.0, 2))
    taught, watched, answered = told.sentences
    assert "48 requests at layer2:dct@3" in taught
    assert "send 5 photos while the exit only watches" in watched
    assert "Of the next 3 photos the device answers 2 by itself, 1 of them correctly" in answered
    assert "in 11 ms instead of 50" in answered
    assert "cat <tabby>" in told.text()
    page = Page("demo", "test")
    told.add_to(page)
    assert "Exit at layer2:dct@3" in page.write(tmp_path / "page.html").read_text()


@pytest.mark.parametrize("rows", [(), (row("server", 50.0),)])
def test_an_exit_that_never_answered_is_said_to_be_none(rows: tuple[dict[str, Any], ...]) -> None:
    assert exits(*rows).sentences[-1] == "It did not come so far that it answers a photo."
