"""``isplit docs``: the pages of the documentation, which are installed with the package."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..errors import ArtifactError, UnknownNameError
from ..serving.resources import config_file

HELP: Final = "list the pages of the documentation, or print one"
DESCRIPTION: Final = """\
List the pages of the documentation, or print one as Markdown. They are installed
with the package, so they are those of this version.
"""
EPILOG: Final = """\
examples:
  isplit docs                           all pages
  isplit docs settings                  one page; its last name is enough where it is unique
  isplit docs how-to/send-labels | less
  isplit docs settings --path           where the page lies
"""

_PACKAGE: Final = Path(__file__).resolve().parent.parent
# In a wheel the pages are inside the package, in a checkout beside it, in the same order of folders.
_FOLDERS: Final = (_PACKAGE / "_docs", _PACKAGE.parent)
_TOP: Final = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
_INCLUDE: Final = re.compile(r"^```\{include\} (\S+)\n(?:.*\n)*?```$", flags=re.MULTILINE)
_LISTING: Final = re.compile(
    r"^```\{literalinclude\} (\S+)\n(?::language: (\S+)\n)?```$", flags=re.MULTILINE
)
_SUMMARY: Final = re.compile(
    r"^```\{eval-rst\}\n\.\. autosummary::\n(?: +:.*\n)*\n((?: +\S+\n)+)```$", flags=re.MULTILINE
)
_TOCTREE: Final = re.compile(r"^```\{toctree\}\n(?:.*\n)*?```\n", flags=re.MULTILINE)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("page", nargs="?", metavar="PAGE", help="such as settings or how-to/index")
    parser.add_argument(
        "--path", action="store_true", help="print where the page lies, or the folder of all"
    )


def run(options: argparse.Namespace) -> int:
    folder = _folder()
    known = pages(folder)
    if options.page is None:
        if options.path:
            print(folder)
        else:
            for name, path in known.items():
                print(f"{name:<36} {_title(path)}")
            print("\nOne of them: isplit docs PAGE", file=sys.stderr)
        return 0
    path = find_page(options.page, known)
    print(path if options.path else read_page(path).rstrip())
    return 0


def pages(folder: Path) -> dict[str, Path]:
    """Name -> file of every page: ``readme``, ``how-to/send-labels``."""
    files = [folder / name for name in _TOP] + sorted((folder / "docs").rglob("*.md"))
    named = {
        str(path.relative_to(folder).with_suffix("")).removeprefix("docs/").lower(): path
        for path in files
        if path.is_file()
    }
    # Two pages of the built documentation only include the files of the top.
    return {name: path for name, path in named.items() if name != "reference/changelog"}


def find_page(wanted: str, known: Mapping[str, Path]) -> Path:
    """The page of this name, or of this last part of a name.

    Raises:
        UnknownNameError: no page has it, or several have; the message lists pages.
    """
    name = wanted.removesuffix(".md").strip("/").removeprefix("docs/").lower()
    if name in known:
        return known[name]
    matches = [page for page in known if page.endswith(f"/{name}")]
    if len(matches) == 1:
        return known[matches[0]]
    if matches:
        raise UnknownNameError(
            f"several pages are called {wanted!r}: {', '.join(matches)}", known=matches
        )
    raise UnknownNameError.of(wanted, known)


def read_page(path: Path) -> str:
    """The text of a page, with what it includes and without the lists for the builder.

    Raises:
        ServingError: a configuration file that the page shows is missing from this installation.
    """

    def included(match: re.Match[str]) -> str:
        other = path.parent / match[1]
        return other.read_text("utf-8") if other.is_file() else match[0]

    def listed(match: re.Match[str]) -> str:
        other = path.parent / match[1]
        if not other.is_file():
            other = config_file(other.name)  # in a wheel, configuration files lie elsewhere
        return f"```{match[2] or ''}\n{other.read_text('utf-8').rstrip()}\n```"

    def named(match: re.Match[str]) -> str:
        return "\n".join(f"- `{name}`" for name in match[1].split())

    text = _LISTING.sub(listed, _INCLUDE.sub(included, path.read_text("utf-8")))
    return _TOCTREE.sub("", _SUMMARY.sub(named, text))


def _title(path: Path) -> str:
    match = re.search(r"^# (.+)$", read_page(path), flags=re.MULTILINE)
    return match[1] if match else ""


def _folder() -> Path:
    for folder in _FOLDERS:
        if (folder / "docs" / "index.md").is_file():
            return folder
    raise ArtifactError(
        f"the documentation is missing from this installation: expected it in "
        f"{' or '.join(map(str, _FOLDERS))}"
    )
