"""``isplit unregister``: end a version of a model on a running TorchServe."""

from __future__ import annotations

import argparse
from typing import Final

from ..errors import QueryError
from . import common

HELP: Final = "unregister a model, or one of its versions"
DESCRIPTION: Final = """\
Unregister a model from a TorchServe that runs: its workers end, and requests
for it are answered with an error. Of several versions the default one can be
unregistered last only; make another one the default before:
isplit register ARCHIVE --default. The archive stays in the model store, and the
store keeps the version and its statistics; isplit store forget deletes them.
To see when a version last answered a request: isplit store models
"""
EPILOG: Final = """\
examples:
  isplit unregister resnet50 --version 1.0 --token-file key_file.json
  isplit unregister resnet50 --token-file key_file.json   # its only version
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="name that the model is registered by")
    parser.add_argument(
        "--version", metavar="V", help="needed where several versions are registered"
    )
    parser.add_argument("--json", action="store_true", help="print what was unregistered as JSON")
    common.add_management(parser)


def run(options: argparse.Namespace) -> int:
    from ..schema import version_key
    from ..serving.launcher import model_versions, unregister

    url = options.management_url
    token = common.token_of(options, "management")
    versions = sorted(model_versions(url, options.model, token=token), key=version_key)
    if options.version is None and len(versions) > 1:
        raise QueryError(
            f"{options.model} has several versions: name one with --version, "
            f"one of {', '.join(versions)}"
        )
    unregister(url, options.model, version=options.version, token=token)
    version = options.version or "".join(versions)
    if options.json:
        common.emit_json({"model": options.model, "version": version})
        return 0
    print(f"{options.model} {version}: unregistered")
    return 0
