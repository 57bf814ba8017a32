"""Escape sequences in what a server or a bundle says, which a terminal would obey.

Defence: labels, reasons and messages of a server are made printable when they are read
(:mod:`isplit_plugin.printable`), and the command line prints nothing else of it.
Of single fields: tests/client/test_hostile_answers.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest
from toys.client import (
    Server,
    answering,
    bundle_files,
    make_manifest,
    photo,
    recommendation,
    write_zip,
)

from isplit_plugin.cli import main
from isplit_plugin.errors import WireError

ESCAPES = {
    "clears the screen": "\x1b[2J\x1b[H",
    "sets the title": "\x1b]0;owned\x07",
    "writes over the line": "\rall is well",
    "eight-bit escape": "\x9b31m",
    "turns the text around": "\u202e\u2066",
    "a line of its own": "\nisplit: all is well",
    "lone surrogate": "\ud800",
}


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    PIL.Image.fromarray(photo(51, 204, 0)).save(path)
    return str(path)


def _is_harmless(text: str) -> None:
    for line in text.split("\n"):
        assert line.isprintable(), ascii(line)
        assert not line.startswith("isplit: all is well")


Run = Callable[[list[str]], str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(words: list[str]) -> str:
        main(words)
        captured = capsys.readouterr()
        return captured.out + captured.err

    return run


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_labels_of_an_answer(
    server: Server, bundle: Path, picture: str, run: Run, escape: str
) -> None:
    names = tuple(f"{escape}{name}" for name in ("red", "green", "blue", "dark"))
    server.state.manifest = make_manifest(classes=names)
    words = ["predict", picture, "--model", "toy", "--url", server.url, "--head", str(bundle)]
    _is_harmless(run(words))
    _is_harmless(run([*words, "--json"]))


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_classes_of_a_bundle(tmp_path: Path, picture: str, run: Run, escape: str) -> None:
    names = tuple(f"{escape}{name}" for name in ("red", "green", "blue", "dark"))
    path = write_zip(tmp_path / "hostile.zip", bundle_files(classes=names))
    words = ["predict", picture, "--model", "toy", "--url", "http://127.0.0.1:9"]
    _is_harmless(run([*words, "--head", str(path), "--cut", "output"]))


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_a_recommendation(server: Server, run: Run, escape: str) -> None:
    server.state.advice = recommendation(
        reason=f"because{escape}", model=f"toy{escape}", revision=f"r{escape}", rule=escape
    )
    _is_harmless(run(["recommend", "toy", "--url", server.url]))


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_an_error(server: Server, bundle: Path, picture: str, run: Run, escape: str) -> None:
    error = WireError(f"no{escape}", field=escape)
    server.state.always = answering(400, json.dumps(error.to_json()).encode())
    words = ["predict", picture, "--model", "toy", "--url", server.url, "--head", str(bundle)]
    _is_harmless(run(words))
