"""``isplit label``: true classes for requests that were answered."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Final

from ..errors import DataError, LabelSecretError
from . import common

HELP: Final = "send true classes of requests, so that accuracy is measured"
DESCRIPTION: Final = """\
Tell the endpoint what requests of the last 24 hours really showed. Labels fill the measured accuracy of each served
split point and codec, and outrank the profile's agreement where there are enough of them. They come under a secret of
their own, which is not the devices' token: the server must have been started with ISPLIT_LABEL_SECRET_FILE.
"""
EPILOG: Final = """\
examples:
  isplit label labels.csv --secret-file labels.secret --token-file key_file.json
  echo 7f0c2f0e-...,281 | isplit label - --secret-file labels.secret
Each line: a request's id (isplit_request_id of its answer, Prediction.request_id), a comma, a class id or a label.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="CSV with two columns and no header; - for standard input")
    parser.add_argument(
        "--secret-file", type=Path, required=True, metavar="FILE", help="the secret of labels"
    )
    parser.add_argument("--json", action="store_true", help="what became of them, as JSON")
    common.add_connection(parser)


def run(options: argparse.Namespace) -> int:
    from ..client import send_labels
    from ..device_tokens import read_secret

    labels = _read(options.file)
    try:
        secret = read_secret(options.secret_file).decode()
    except UnicodeDecodeError as error:
        raise LabelSecretError(f"{options.secret_file}: expected text") from error
    found = send_labels(options.url, labels, secret, common.token_of(options))
    if options.json:
        errors = {request_id: error.to_json() for request_id, error in found.errors.items()}
        common.emit_json({"taken": found.taken, "correct": found.correct, "errors": errors})
    else:
        print(f"{found.taken} labels taken, {found.correct} of them agree with the prediction")
        for refused in found.errors.values():
            print(f"  refused: {refused.message}", file=sys.stderr)
    return 1 if found.errors and not found.taken else 0


def _read(name: str) -> list[tuple[str, int | str]]:
    try:
        lines = sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: cannot be read ({error})") from error
    found: list[tuple[str, int | str]] = []
    for number, row in enumerate(csv.reader(lines.splitlines()), 1):
        if not row:
            continue
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise DataError(
                f"{name}, line {number}: expected a request id, a comma and a class, got {row!r:.100}"
            )
        word = row[1].strip()
        found.append((row[0].strip(), int(word) if word.isascii() and word.isdigit() else word))
    if not found:
        raise DataError(f"{name}: expected labels, found none")
    return found
