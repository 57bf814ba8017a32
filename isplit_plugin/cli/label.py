"""``isplit label``: send the true classes of answered requests."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import DataError, IsplitError, LabelSecretError, UnknownRequestError
from . import common

if TYPE_CHECKING:
    from ..client import LabelReport

HELP: Final = "send true classes of requests, so that accuracy is measured"
DESCRIPTION: Final = """\
Send labels, the true classes of requests of the last 24 hours, to the endpoint.
It measures the accuracy of each cut from them; with enough labels, this accuracy
takes precedence over the agreement in the profile. Labels need a secret of their
own, which is not that of device tokens: the server must have been started with
ISPLIT_LABEL_SECRET_FILE.
"""
EPILOG: Final = """\
examples:
  isplit label labels.csv --secret-file labels.secret --device-token-file office.token
  echo 7f0c2f0e-...,281 | isplit label - --secret-file labels.secret
Each line holds a request id (isplit_request_id of the answer,
Prediction.request_id), a comma, and a class id or class name. The server knows a
request about a second after its answer: labels of unknown requests are sent once
more after three seconds. It keeps 100,000 requests of a network, and beyond that
the devices with the most lose their oldest.
"""
_KNOWN_AFTER_S: Final = 3.0
"""A request is surely in the store then, unless the server is starved."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="CSV with two columns and no header; - for standard input")
    parser.add_argument(
        "--secret-file", type=Path, required=True, metavar="FILE", help="the secret for labels"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    common.add_connection(parser)


def run(options: argparse.Namespace) -> int:
    from ..client import send_labels
    from ..device_tokens import read_secret

    labels = _read(options.file)
    try:
        secret = read_secret(options.secret_file).decode()
    except UnicodeDecodeError as error:
        raise LabelSecretError(f"{options.secret_file}: expected text in UTF-8") from error
    if not secret.isprintable():
        raise LabelSecretError(
            f"{options.secret_file}: expected the secret for labels, one line of printable text, got "
            "several lines, or characters that cannot be printed"
        )
    bearer = common.bearer_of(options)
    report = send_labels(options.url, labels, secret, bearer)
    early = {k for k, error in report.errors.items() if isinstance(error, UnknownRequestError)}
    if early:
        time.sleep(_KNOWN_AFTER_S)
        late = [label for label in labels if label[0] in early]
        try:
            report = _joined(report, send_labels(options.url, late, secret, bearer))
        except IsplitError as error:  # what the first call has done stands
            print(
                f"warning: {len(late)} labels of unknown requests could not be sent once more: "
                f"{error.message}",
                file=sys.stderr,
            )
    if options.json:
        errors = {request_id: error.to_json() for request_id, error in report.errors.items()}
        common.emit_json({"taken": report.taken, "correct": report.correct, "errors": errors})
    else:
        print(f"{report.taken} labels taken, {report.correct} of them agree with the prediction")
        for refused in report.errors.values():
            print(f"  refused: {refused.message}", file=sys.stderr)
    return 1 if report.errors and not report.taken else 0


def _joined(first: LabelReport, second: LabelReport) -> LabelReport:
    """The report of two calls; ``second`` sent again what was unknown in the first."""
    from ..client import LabelReport

    errors = {
        request_id: error
        for request_id, error in first.errors.items()
        if not isinstance(error, UnknownRequestError)
    }
    return LabelReport(
        first.taken + second.taken, first.correct + second.correct, {**errors, **second.errors}
    )


def _read(name: str) -> list[tuple[str, int | str]]:
    """(request id, class id or name) for each line of a file. Raises DataError."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: cannot be read ({error})") from error
    labels: list[tuple[str, int | str]] = []
    for number, row in enumerate(csv.reader(text.splitlines()), 1):
        if not row:
            continue
        fields = [field.strip() for field in row]
        if len(fields) != 2 or not all(fields):
            raise DataError(
                f"{name}, line {number}: expected a request id, a comma and a class, "
                f"got {row!r:.100}"
            )
        request_id, word = fields
        is_id = word.isascii() and word.isdigit()
        labels.append((request_id, int(word) if is_id else word))
    if not labels:
        raise DataError(f"{name}: expected labels, found none")
    return labels
