"""``isplit device``: device tokens, by which the statistics tell devices apart."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Final

from ..device_tokens import SECRET_VARIABLE, issue, new_secret, peek, read_secret, verify
from ..errors import SecretError
from . import common

HELP: Final = "issue or show device tokens"
DESCRIPTION: Final = """\
A device token says which device sends a request, so that the statistics can
count each device once, however much it sends. The operator issues it with the
operator's secret, and the device sends it with every request
(SplitClient(device_token=...)). It does not give access to the server; TorchServe
has tokens of its own for that.
"""
EPILOG: Final = """\
examples:
  isplit device secret --secret-file device.secret
  isplit device issue --id camera-7 --days 90 --secret-file device.secret
  isplit device issue --id camera-7 --group door --days 90 --secret-file device.secret
  isplit device show --secret-file device.secret isplit1.WyJjYW1lcmEt...
The server gets the same file through the environment variable ISPLIT_SECRET_FILE
or the key isplit.secret_file in model-config.yaml; isplit serve --devices makes
one of its own.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    issue_parser = actions.add_parser("issue", help="print a new token")
    issue_parser.add_argument(
        "--id", required=True, metavar="ID", help="1 to 64 letters, digits and . _ : @ -"
    )
    issue_parser.add_argument(
        "--days", required=True, type=float, metavar="N", help="how long the token is valid"
    )
    issue_parser.add_argument(
        "--group", metavar="NAME", help="the device's group; the device can then not choose one"
    )
    show_parser = actions.add_parser("show", help="verify a token and print what it says")
    show_parser.add_argument("token", metavar="TOKEN")
    secret_parser = actions.add_parser(
        "secret", help="make a secret file: 32 random bytes, mode 0600"
    )
    for action in (issue_parser, show_parser, secret_parser):
        action.add_argument(
            "--secret-file",
            type=Path,
            metavar="FILE",
            help=f"the operator's secret, or set {SECRET_VARIABLE}",
        )
        action.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    secret_file = options.secret_file or os.environ.get(SECRET_VARIABLE)
    if options.action == "show":
        _show(options, secret_file)
        return 0
    if not secret_file:
        raise SecretError(
            f"expected --secret-file FILE or the environment variable {SECRET_VARIABLE}, "
            "got neither"
        )
    if options.action == "secret":
        _make_secret(options, secret_file)
    else:
        _issue(options, secret_file)
    return 0


def _make_secret(options: argparse.Namespace, secret_file: str | Path) -> None:
    path = new_secret(secret_file)
    if options.json:
        common.emit_json({"secret_file": str(path)})
    else:
        print(path)


def _issue(options: argparse.Namespace, secret_file: str | Path) -> None:
    token = issue(read_secret(secret_file), options.id, days=options.days, group=options.group)
    if options.json:
        _, group, expires = peek(token)
        common.emit_json({"token": token, "id": options.id, "group": group, "expires": expires})
    else:
        print(token)


def _show(options: argparse.Namespace, secret_file: str | Path | None) -> None:
    """Print what a token says; with a secret, verify it first."""
    device_id, group, expires = peek(options.token)
    hashed = None
    if secret_file:
        hashed = verify(read_secret(secret_file), options.token.strip()).hashed
    if options.json:
        report = {"id": device_id, "group": group, "expires": expires, "verified": bool(hashed)}
        common.emit_json(report if hashed is None else {**report, "hashed": hashed})
        return
    until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(expires))
    print(f"device {device_id}, group {group or '(its own choice)'}, valid until {until}")
    print(f"stored as {hashed}" if hashed else "not verified: no secret file was named")
