"""``isplit register``: register packaged models with a running TorchServe."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ArtifactError, IsplitError, UnknownModelError
from . import common

if TYPE_CHECKING:
    from ..client import Token

HELP: Final = "register packaged models with a running TorchServe"
DESCRIPTION: Final = """\
Register archives with a TorchServe that runs already, and wait until their
workers are ready. If a model fails to load, it is unregistered again and the
reason is printed. If the server has the endpoint (isplit.mar), it is asked for
a recommendation for each model, which shows that models and endpoint share a
store.

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
        "--url",
        default=os.environ.get("ISPLIT_URL", "http://127.0.0.1:8080"),
        help="inference address, or set ISPLIT_URL (default: %(default)s)",
    )
    parser.add_argument(
        "--inference-token",
        metavar="TOKEN",
        help="the inference token itself (default: that of --token-file)",
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
    statuses = [
        register(
            options.management_url,
            path,
            token=token,
            workers=options.workers,
            timeout=options.timeout,
            log_path=options.server_log,
        )
        for path in options.archives
    ]
    _ask_endpoint(options, [status.name for status in statuses], token)
    if options.json:
        common.emit_json(
            [
                {"model": status.name, "version": status.version, "workers": list(status.workers)}
                for status in statuses
            ]
        )
        return 0
    for status in statuses:
        states = ", ".join(status.workers)
        print(f"{status.name} {status.version}: {len(status.workers)} worker(s), {states}")
    return 0


def _ask_endpoint(options: argparse.Namespace, names: list[str], token: Token) -> None:
    """Ask the endpoint about each model, because workers are ready without a usable store too.

    Raises:
        IsplitError: the endpoint's error, or the error of reaching it.
    """
    from ..client import fetch_recommendation
    from ..serving.launcher import ENDPOINT_MODEL, model_status

    models = [name for name in names if name != ENDPOINT_MODEL]
    try:
        model_status(options.management_url, ENDPOINT_MODEL, token=token)
    except UnknownModelError:
        common.note(options, f"note: no recommendations until {ENDPOINT_MODEL}.mar is registered")
        return
    inference_token: Token = options.inference_token
    if options.token_file is not None and inference_token is None:
        inference_token = common.token_of(options, "inference")
    if token is not None and inference_token is None:
        common.note(
            options, "note: the endpoint was not asked: pass --token-file or --inference-token"
        )
        return
    for name in models:
        try:
            fetch_recommendation(options.url, name, token=inference_token)
        except IsplitError as error:
            raise type(error)(
                f"{name} is registered, but the endpoint at {options.url} gives no recommendation "
                f"for it: {error.message}",
                **error.details,
            ) from error
