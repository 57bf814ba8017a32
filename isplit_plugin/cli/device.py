"""``isplit device``: device tokens, by which the statistics tell devices apart."""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path
from typing import Final

from ..device_tokens import (
    SECRET_VARIABLE,
    RevokedDevices,
    TokenVerifier,
    issue,
    new_secret,
    peek,
    read_secret,
    revoke,
    revoked_path,
)
from ..errors import SecretError
from ..files import write_atomically
from . import common

HELP: Final = "issue, show or revoke device tokens"
DESCRIPTION: Final = """\
A device token says which device sends a request. The forwarder (isplit forward)
admits devices by it, and the statistics count each device once, however much it
sends. The operator issues it with the operator's secret, and the device sends it
with every request (SplitClient(device_token=...)).
"""
EPILOG: Final = """\
examples:
  isplit device secret --secret-file device.secret
  isplit device issue --id camera-7 --days 90 --secret-file device.secret -o camera-7.token
  isplit device issue --id camera-7 --group door --days 90 --secret-file device.secret
  isplit device revoke camera-7 --secret-file device.secret    # lost: it ends at once
  isplit device revoked --secret-file device.secret            # the revoked ids
  isplit device show --secret-file device.secret isplit1.WyJjYW1lcmEt...
The server gets the same file through the environment variable ISPLIT_SECRET_FILE
or the setting secret_file (isplit docs settings); isplit serve --devices makes
one of its own. revoke adds a line to device.secret.revoked, which servers and
forwarders read again when it changes; every host needs both files. A token that is
issued after the revocation is valid again.
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
    issue_parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="write it to FILE (mode 0600) instead"
    )
    revoke_parser = actions.add_parser("revoke", help="end all tokens of devices at once")
    revoke_parser.add_argument("ids", nargs="+", metavar="ID")
    revoked_parser = actions.add_parser("revoked", help="list the revoked ids")
    show_parser = actions.add_parser("show", help="verify a token and print what it says")
    show_parser.add_argument("token", metavar="TOKEN")
    secret_parser = actions.add_parser(
        "secret", help="make a secret file: 32 random bytes, mode 0600"
    )
    for action in (issue_parser, revoke_parser, revoked_parser, show_parser, secret_parser):
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
    actions = {
        "secret": _make_secret,
        "issue": _issue,
        "revoke": _revoke,
        "revoked": _list_revoked,
    }
    actions[options.action](options, secret_file)
    return 0


def _make_secret(options: argparse.Namespace, secret_file: str | Path) -> None:
    path = new_secret(secret_file)
    if options.json:
        common.emit_json({"secret_file": str(path)})
    else:
        print(path)


def _issue(options: argparse.Namespace, secret_file: str | Path) -> None:
    token = issue(read_secret(secret_file), options.id, days=options.days, group=options.group)
    if options.out is not None:
        write_atomically(options.out, f"{token}\n".encode(), mode=0o600)
    if options.json:
        claims = peek(token)
        where = {"token": token} if options.out is None else {"token_file": str(options.out)}
        common.emit_json({**where, **claims._asdict()})
    else:
        print(token if options.out is None else options.out)


def _revoke(options: argparse.Namespace, secret_file: str | Path) -> None:
    read_secret(secret_file)  # a wrong path would make a list that nobody reads
    path = revoked_path(secret_file)
    revoke(path, options.ids)
    if options.json:
        common.emit_json({"revoked": options.ids, "list": str(path)})
    else:
        print(f"revoked: {', '.join(options.ids)} ({path})")


def _list_revoked(options: argparse.Namespace, secret_file: str | Path) -> None:
    times = RevokedDevices(revoked_path(secret_file)).times()
    if options.json:
        since = {name: None if at == math.inf else at for name, at in times.items()}
        common.emit_json({"revoked": since})
        return
    for device_id, at in times.items():
        print(f"{device_id}  {'all tokens' if at == math.inf else f'since {_date(at)}'}")


def _show(options: argparse.Namespace, secret_file: str | Path | None) -> None:
    """Print what a token says; with a secret, verify it first."""
    device_id, group, issued, expires = peek(options.token)
    hashed = None
    if secret_file:
        hashed = TokenVerifier.from_file(secret_file).verify(options.token.strip()).hashed
    if options.json:
        report = {**peek(options.token)._asdict(), "verified": bool(hashed)}
        common.emit_json(report if hashed is None else {**report, "hashed": hashed})
        return
    print(
        f"device {device_id}, group {group or '(its own choice)'}, "
        f"issued {_date(issued)}, valid until {_date(expires)}"
    )
    print(f"stored as {hashed}" if hashed else "not verified: no secret file was named")


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
