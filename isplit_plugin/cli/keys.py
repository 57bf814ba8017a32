"""``isplit keys``: the operator's key pair, with which exits are signed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from ..errors import SecretError
from ..exits import (
    new_keys,
    public_key_of,
    public_key_path,
    read_private_key,
    read_public_key,
)
from . import common

HELP: Final = "make or check the key pair that signs exits"
DESCRIPTION: Final = """\
An exit lets devices answer by themselves, so a device takes one only if the
operator signed it. The server signs with the private key; the public key ships
with the app and is no secret.
"""
EPILOG: Final = """\
examples:
  isplit keys make exit.key       # writes exit.key (mode 0600) and exit.key.pub
  isplit keys show exit.key       # does the pair belong together? prints the public key
How to turn exits on: isplit docs answer-on-the-device
Keep the private key where only the server's user reads it: a key file that others
may read is refused. Whoever has it decides what devices answer. A lost or stolen
key is replaced by making another pair and shipping its public key with the app;
devices then refuse what the old one signed.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    make = actions.add_parser("make", help="make a key pair: FILE (mode 0600) and FILE.pub")
    show = actions.add_parser("show", help="check both files and print the public key")
    for action in (make, show):
        action.add_argument("file", type=Path, metavar="FILE", help="the private key")
        action.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    if options.action == "make":
        private, public = new_keys(options.file)
    else:
        private, public = options.file, public_key_path(options.file)
        check_pair(private, public)
    key = read_public_key(public).hex()
    if options.json:
        common.emit_json(
            {"private_key_file": str(private), "public_key_file": str(public), "public_key": key}
        )
    else:
        print(f"private key  {private}\npublic key   {public}\n             {key}")
    return 0


def check_pair(private: Path, public: Path) -> None:
    """Raises SecretError if the two files cannot be read or do not belong together."""
    if public_key_of(read_private_key(private)) != read_public_key(public):
        raise SecretError(f"key file {public}: expected the public key of {private}, got another")
