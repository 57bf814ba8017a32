"""``isplit register``: register packaged models with a running TorchServe."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from ..errors import ArtifactError
from . import common

HELP: Final = "register packaged models with a running TorchServe"
DESCRIPTION: Final = """\
Register archives with a TorchServe that runs already, and wait until their
workers are ready. If a model fails to load, it is unregistered again and the
reason is printed.

The server must have
  - the archives in its model store,
  - isplit-plugin[server] in its Python environment,
  - enable_model_api=true in its configuration,
  - max_request_size and max_response_size that are large enough for activations.
"""
EPILOG: Final = """\
examples:
  isplit register resnet50.mar isplit.mar --token-file key_file.json
  isplit register resnet50.mar --print-curl   # curl commands that do the same
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "archives", nargs="+", type=Path, metavar="MAR", help="archives of isplit package"
    )
    parser.add_argument(
        "--management-url",
        default="http://127.0.0.1:8081",
        metavar="URL",
        help="management address (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=common.positive_int,
        default=1,
        metavar="N",
        help="for each model whose archive does not say (default: %(default)s)",
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="TorchServe's key_file.json"
    )
    parser.add_argument(
        "--token", metavar="TOKEN", help="the management token itself, or set ISPLIT_TOKEN"
    )
    parser.add_argument(
        "--server-log", type=Path, metavar="FILE", help="the server's log, to say why a load failed"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=180.0,
        metavar="S",
        help="seconds for each archive (default: %(default)s)",
    )
    parser.add_argument(
        "--print-curl", action="store_true", help="print the curl commands and do nothing"
    )
    parser.add_argument("--json", action="store_true", help="print what was registered as JSON")


def run(options: argparse.Namespace) -> int:
    from ..serving.launcher import curl_commands, register

    missing = [str(path) for path in options.archives if not path.is_file()]
    if missing:
        raise ArtifactError(f"expected .mar archives, found no file at {', '.join(missing)}")
    if options.print_curl:
        for path in options.archives:
            print("\n".join(curl_commands(options.management_url, path, workers=options.workers)))
        return 0
    token = common.token_of(options, "management")
    registered = []
    for path in options.archives:
        status = register(
            options.management_url,
            path,
            token=token,
            workers=options.workers,
            timeout=options.timeout,
            log_path=options.server_log,
        )
        registered.append(
            {"model": status.name, "version": status.version, "workers": list(status.workers)}
        )
        if not options.json:
            states = ", ".join(status.workers)
            print(f"{status.name} {status.version}: {len(status.workers)} worker(s), {states}")
    if options.json:
        common.emit_json(registered)
    return 0
