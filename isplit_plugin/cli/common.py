"""What several commands share: options of a connection, tokens, tables on a terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, AuthenticationError, QueryError

Token = str | Callable[[], str] | None


def add_connection(parser: argparse.ArgumentParser) -> None:
    """The options that say where the server is and how to be let in."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--url",
        default=os.environ.get("ISPLIT_URL", "http://127.0.0.1:8080"),
        help="inference address (%(default)s)",
    )
    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="TorchServe's key_file.json; read again when the token has expired",
    )
    group.add_argument(
        "--token", metavar="TOKEN", help="the inference token itself (or set ISPLIT_TOKEN)"
    )


def token_of(options: argparse.Namespace, kind: str = "inference") -> Token:
    """The token, or a callable that re-reads the key file; ``None`` where none was named.

    Raises AuthenticationError where the named file holds no token of this ``kind``.
    """
    if options.token_file is not None:
        path: Path = options.token_file
        read_key(path, kind)  # fail now, with a clear message, rather than at the first request
        return lambda: read_key(path, kind)
    return options.token or os.environ.get("ISPLIT_TOKEN") or None


def read_key(path: Path, kind: str) -> str:
    """One key of a TorchServe key file: ``inference``, ``management`` or ``API``."""
    try:
        key = json.loads(path.read_text())[kind]["key"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AuthenticationError(
            f"{path}: expected TorchServe's key file with a {kind!r} key ({type(error).__name__}: {error})"
        ) from error
    return str(key)


def whole(text: str) -> int:
    """A whole number from 1, as an option's value."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def make_folder(path: Path) -> Path:
    """A folder to write to, made where it is missing: before the work, not after it. Raises ArtifactError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{path}: expected a folder to write to ({error.strerror})") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ArtifactError(f"{path}: expected a folder to write to (permission denied)")
    return path


def note(options: argparse.Namespace, text: str) -> None:
    """Say on stderr what takes a while; nothing where a program reads."""
    if not getattr(options, "json", False):
        print(text, file=sys.stderr, flush=True)


def class_ids(text: str) -> tuple[int, ...]:
    """Comma-separated class ids. Raises QueryError naming the word that is none."""
    ids = []
    for word in (w.strip() for w in text.split(",")):
        if not word.isdigit():
            raise QueryError(
                f"expected class ids like 281,282, got {word!r}; names are listed by the endpoint"
            )
        ids.append(int(word))
    return tuple(ids)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns aligned for a terminal: numbers to the right, words to the left."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [
        max(len(name), *(len(row[i]) for row in cells)) if cells else len(name)
        for i, name in enumerate(header)
    ]
    right = [bool(cells) and all(_numeric(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        parts = [
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return "\n".join(
        [line(list(header)), line(["-" * w for w in widths]), *(line(row) for row in cells)]
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _numeric(cell: str) -> bool:
    try:
        float(cell.rstrip("%").replace(",", ""))
    except ValueError:
        return cell == "-"
    return True


def kilobytes(nbytes: float) -> str:
    """Bytes as people compare them: one decimal, 1 KB = 1,000 bytes."""
    return f"{nbytes / 1000:,.1f} KB"


def emit_json(value: Any) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False, default=str)
    sys.stdout.write("\n")


def when(seconds: float | None) -> str:
    """Seconds since 1970 as people read them."""
    if not seconds:
        return "none yet"
    return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds").replace("+00:00", " UTC")
