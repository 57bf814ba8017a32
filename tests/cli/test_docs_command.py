"""``isplit docs``: pages are listed, found by their last name and printed; help points at them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from isplit_plugin.cli import COMMANDS, build_parser, main
from isplit_plugin.cli.docs import find_page, pages
from isplit_plugin.errors import UnknownNameError

ROOT = Path(__file__).parents[2]
KNOWN = pages(ROOT)
SOURCES = sorted((ROOT / "isplit_plugin").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["docs", *words]) == 0
    return capsys.readouterr().out


def test_every_page_is_listed_with_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split(maxsplit=1) for line in printed(capsys).splitlines()]
    assert [name for name, _ in rows] == list(KNOWN)
    assert ["reference/settings", "Settings"] in rows
    files = set((ROOT / "docs").rglob("*.md"))
    shown = set(KNOWN.values()) | {
        ROOT / "docs/contributing.md",
        ROOT / "docs/reference/changelog.md",
    }
    assert files <= shown


@pytest.mark.parametrize(
    ("asked", "title"),
    [
        ("settings", "# Settings"),
        ("docs/reference/settings.md", "# Settings"),
        ("how-to/index", "# How-to guides"),
        ("README", "# isplit-plugin"),
        ("changelog", "# Changelog"),
        ("Contributing", "# Contributing"),
    ],
)
def test_a_page_is_printed(capsys: pytest.CaptureFixture[str], asked: str, title: str) -> None:
    text = printed(capsys, asked)
    assert text.startswith(title)
    assert Path(printed(capsys, asked, "--path").strip()).is_file()


@pytest.mark.parametrize("page", KNOWN)
def test_nothing_is_left_for_the_builder(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "```{" not in printed(capsys, page)


def test_the_public_packages_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\n- `isplit_plugin.client`\n- `isplit_plugin.errors`\n" in printed(capsys, "api")


def test_a_page_shows_the_configuration_files(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "settings")
    assert "{literalinclude}" not in text
    for name in ("model-config.yaml", "endpoint-config.yaml", "metrics.yaml"):
        assert f"```yaml\n{(ROOT / 'config' / name).read_text().rstrip()}\n```" in text


@pytest.mark.parametrize("folder", ["tutorials", "how-to", "explanation", "reference"])
def test_an_index_links_every_page_of_its_folder(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    links = re.findall(r"^- \[.+\]\((.+)\.md\)$", printed(capsys, f"{folder}/index"), re.MULTILINE)
    pages_beside = {path.stem for path in (ROOT / "docs" / folder).glob("*.md")} - {"index"}
    assert sorted(links) == sorted(pages_beside)
    source = (ROOT / "docs" / folder / "index.md").read_text()
    # What the builder lists, in the same order.
    assert "\n".join([":hidden:", *links, "```"]) in source


def test_a_page_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs", "../../etc/passwd"]) == 3
    assert "unknown name" in capsys.readouterr().err
    with pytest.raises(UnknownNameError, match="several pages"):
        find_page("x", {"a/x": ROOT, "b/x": ROOT})


@pytest.mark.parametrize("command", COMMANDS)
def test_help_points_at_pages_that_are_installed(command: str) -> None:
    parser = build_parser(command)
    (actions,) = (action for action in parser._actions if action.dest == "command")
    assert isinstance(actions.choices, dict)
    text = actions.choices[command].format_help()
    assert "docs/" not in re.sub(r"isplit docs \S+", "", text)


def test_every_page_that_the_sources_name_exists() -> None:
    for path in SOURCES:
        text = path.read_text()
        for name in re.findall(r"docs/[\w/-]+\.md", text):
            assert (ROOT / name).is_file(), (path, name)
        if path.name != "docs.py":
            for name in re.findall(r"isplit docs ([a-z][\w/-]+)", text):
                find_page(name, KNOWN)


def test_every_extra_that_somebody_is_told_to_install_exists() -> None:
    texts = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *SOURCES]
    named = set()
    for path in texts:
        for group in re.findall(r"(?:isplit-plugin|whl|'\.)\[([a-z,]+)\]", path.read_text()):
            named |= set(group.split(","))
    assert named <= EXTRAS.keys()
    readme = (ROOT / "README.md").read_text()
    for extra in EXTRAS.keys() - {"dev", "docs", "fuzz"}:
        assert re.search(rf"[\[,`]{extra}[\],`]", readme), f"README does not mention {extra}"


def test_no_page_says_to_install_an_unpublished_name_first() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme.split("## Install")[1].split("\n## ")[0]
    commands = re.findall(r"^\|.*`pip install (.*?)`", table, flags=re.MULTILINE)
    assert len(commands) >= 4
    assert all(command.startswith("'.[") for command in commands)
