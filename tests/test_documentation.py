"""What the documentation says about the code is true: commands parse, names and files exist."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys.pages import DOCS, ROOT, blocks, command_lines

from isplit_plugin.cli import COMMANDS, build_parser
from isplit_plugin.errors import IsplitError

PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
ARCHITECTURE = (DOCS / "architecture.md").read_text()


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def isplit_commands(page: Path) -> Iterator[list[str]]:
    """The words behind ``isplit`` of every command of a page, without variables in front of it."""
    for block in blocks(page.read_text(), "sh"):
        for line in command_lines(block):
            match = re.match(r"\s*(?:[A-Z_]+=\S+ )*isplit (.*)", line)
            if match and "..." not in line:
                words = shlex.split(match.group(1), comments=True)
                yield words[: words.index(">")] if ">" in words else words


def errors(kind: type[IsplitError]) -> Iterator[type[IsplitError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from errors(child)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_parse(page: Path) -> None:
    for words in isplit_commands(page):
        build_parser(words[0]).parse_args(words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_compiles(page: Path) -> None:
    for block in blocks(page.read_text(), "python"):
        ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_exist(page: Path) -> None:
    paths = r"`((?:isplit_plugin|tests|benchmarks|config|handlers|examples|docs)/[\w./-]*)`"
    missing = [path for path in re.findall(paths, page.read_text()) if not (ROOT / path).exists()]
    assert not missing


def test_every_command_is_listed() -> None:
    text = (DOCS / "reference" / "command-line.md").read_text()
    assert re.findall(r"^\| `isplit (\w+)`", text, flags=re.MULTILINE) == list(COMMANDS)


def test_every_error_is_listed() -> None:
    rows = re.findall(
        r"^\| (\d+) \| `(\w+)` \| `(\w+)` \|",
        (DOCS / "reference" / "errors.md").read_text(),
        flags=re.MULTILINE,
    )
    kinds = {(str(kind.status), kind.code, kind.__name__) for kind in errors(IsplitError)}
    assert set(rows) == kinds
    assert len(rows) == len(kinds)


def test_every_variable_is_listed() -> None:
    text = (DOCS / "reference" / "settings.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "isplit_plugin").rglob("*.py"))
    for variable in re.findall(r'"(ISPLIT_[A-Z_]+)"', sources):
        assert f"`{variable}`" in text, variable


def test_the_layers_are_those_that_lint_checks() -> None:
    (drawn,) = re.findall(r"```\n(handlers, cli\n.*?)```", ARCHITECTURE, flags=re.DOTALL)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = project["tool"]["importlinter"]["contracts"][0]
    checked = [
        {name.strip().removeprefix("isplit_plugin.") for name in layer.split("|")}
        for layer in contract["layers"]
    ]
    assert [set(line.split(", ")) for line in drawn.splitlines()] == checked
    packages = set(re.findall(r"`(\w+)`", ARCHITECTURE.split("## Allowed")[0]))
    assert set().union(*checked) - {"handlers"} <= packages
