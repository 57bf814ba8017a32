"""``isplit device``: tokens by which the statistics know one device from another."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Final

from ..device_tokens import SECRET_VARIABLE, issue, new_secret, peek, read_secret, verify
from ..errors import SecretError
from . import common

HELP: Final = "issue the token of a device, or look at one"
DESCRIPTION: Final = """\
A device's token says who it is, so that the statistics can count each device once however much it sends. The operator
issues it with the server's secret; the device sends it with every request (SplitClient(device_token=...)). It is no
password to the server: TorchServe's own tokens let a device in, this one only says which it is.
"""
EPILOG: Final = """\
examples:
  isplit device secret --secret-file device.secret                          # once: 32 random bytes, mode 0600
  isplit device issue --id camera-7 --days 90 --secret-file device.secret   # prints the token
  isplit device issue --id camera-7 --group door --days 90 --secret-file device.secret
  isplit device show --secret-file device.secret isplit1.WyJjYW1lcmEt...    # what it says, and whether it holds
The server gets the same file by the environment variable ISPLIT_SECRET_FILE, by isplit.secret_file in
model-config.yaml, or makes its own with: isplit serve --devices
"""


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    issuing = actions.add_parser("issue", help="print a token")
    issuing.add_argument(
        "--id", required=True, metavar="ID", help="1 to 64 letters, digits and . _ : @ -"
    )
    issuing.add_argument(
        "--days", required=True, type=float, metavar="N", help="how long the token holds"
    )
    issuing.add_argument(
        "--group", metavar="NAME", help="put the device in a group, whatever it says itself"
    )
    showing = actions.add_parser("show", help="what a token says")
    showing.add_argument("token", metavar="TOKEN")
    making = actions.add_parser("secret", help="make a secret file")
    for action in (issuing, showing, making):
        action.add_argument(
            "--secret-file",
            type=Path,
            metavar="FILE",
            help=f"the operator's secret (or set {SECRET_VARIABLE})",
        )
        action.add_argument("--json", action="store_true", help="one JSON document for programs")


def run(options: argparse.Namespace) -> int:
    named = options.secret_file or os.environ.get(SECRET_VARIABLE)
    if options.action == "show":
        return show(options, Path(named) if named else None)
    if not named:
        raise SecretError(
            f"expected --secret-file FILE or the environment variable {SECRET_VARIABLE}, got neither"
        )
    if options.action == "secret":
        path = new_secret(named)
        common.emit_json({"secret_file": str(path)}) if options.json else print(path)
        return 0
    token = issue(read_secret(named), options.id, days=options.days, group=options.group)
    if options.json:
        _, group, expires = peek(token)
        common.emit_json({"token": token, "id": options.id, "group": group, "expires": expires})
    else:
        print(token)
    return 0


def show(options: argparse.Namespace, secret_file: Path | None) -> int:
    """What a token claims, and with a secret whether that is true. Raises TokenError where it is not."""
    device_id, group, expires = peek(options.token)
    told: dict[str, object] = {
        "id": device_id,
        "group": group,
        "expires": expires,
        "verified": False,
    }
    if secret_file is not None:
        told |= {
            "verified": True,
            "hashed": verify(read_secret(secret_file), options.token.strip()).hashed,
        }
    if options.json:
        common.emit_json(told)
        return 0
    until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(expires))
    print(f"device {device_id}, group {group or '(its own)'}, until {until}")
    print(
        f"stored as {told['hashed']}" if secret_file else "not verified: no secret file was named"
    )
    return 0
