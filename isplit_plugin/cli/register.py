"""``isplit register``: register packaged models with a running TorchServe."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import ArtifactError, IsplitError, UnknownModelError
from . import common

if TYPE_CHECKING:
    from ..client import Token
    from ..serving.launcher import ModelStatus

HELP: Final = "register packaged models with a running TorchServe"
DESCRIPTION: Final = """\
Register archives with a TorchServe that runs already, and wait until their
workers are ready. A version of a model is registered beside its others and
changes nothing for them: requests that name no version still go to the default
version, which is the one registered first. --default makes the registered
version the default one; it may be registered already. If a model fails to load,
it is unregistered again and the reason is printed. If the server has the endpoint
(isplit.mar), it is asked for a recommendation for each model, which shows that
models and endpoint share a store.

The server must have
  - the archives in its model store,
  - isplit-plugin[server] in its Python environment,
  - enable_model_api=true in its configuration,
  - max_request_size and max_response_size that are large enough for activations.
"""
EPILOG: Final = """\
examples:
  isplit register resnet50.mar isplit.mar --token-file key_file.json
  isplit register resnet50-2.0.mar --token-file key_file.json            # beside 1.0
  isplit register resnet50-2.0.mar --default --token-file key_file.json  # now the default
  isplit register resnet50.mar --default --token-file key_file.json      # back to 1.0
  isplit register resnet50.mar --print-curl   # curl commands that do the same
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "archives", nargs="+", type=Path, metavar="MAR", help="archives of isplit package"
    )
    common.add_management(parser)
    parser.add_argument(
        "--default",
        action="store_true",
        help="make the version the default one, which answers requests that name no version",
    )
    parser.add_argument(
        "--workers",
        type=common.positive_int,
        default=1,
        metavar="N",
        help="for each model whose archive does not say (default: %(default)s)",
    )
    parser.add_argument(
        "--url",
        # Not ISPLIT_URL: that is the forwarder's, which lets devices in, and no operator.
        default=os.environ.get("ISPLIT_INFERENCE_URL", "http://127.0.0.1:8080"),
        help="TorchServe's inference address, or set ISPLIT_INFERENCE_URL (default: %(default)s)",
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
    from ..serving.launcher import curl_commands

    missing = [str(path) for path in options.archives if not path.is_file()]
    if missing:
        raise ArtifactError(f"expected .mar archives, found no file at {', '.join(missing)}")
    if options.print_curl:
        for path in options.archives:
            commands = curl_commands(
                options.management_url, path, workers=options.workers, default=options.default
            )
            print("\n".join(commands))
        return 0
    token = common.token_of(options, "management")
    statuses = [_register(options, path, token) for path in options.archives]
    _ask_endpoint(options, statuses, token)
    rows = [_report(options, status, token) for status in statuses]
    if options.json:
        common.emit_json(rows)
        return 0
    for row in rows:
        print(
            "{model} {version}: {number} worker(s), {states}".format(
                **row, number=len(row["workers"]), states=", ".join(row["workers"])
            )
        )
        if row["default_version"] != row["version"]:
            print(
                "  requests that name no version go to {default_version}, the default version; "
                "those for {version} to /predictions/{model}/{version}".format(**row)
            )
    return 0


def _register(options: argparse.Namespace, path: Path, token: Token) -> ModelStatus:
    """Register an archive, and make it the default version if asked, registered or not."""
    from ..serving.launcher import archive_identity, model_versions, register, set_default

    url = options.management_url
    model, version = archive_identity(path)
    is_new = not options.default or version not in model_versions(url, model, token=token)
    if is_new:
        status = register(
            url,
            path,
            token=token,
            workers=options.workers,
            timeout=options.timeout,
            log_path=options.server_log,
        )
    if options.default:
        status = set_default(url, model, version, token=token)
    return status


def _report(options: argparse.Namespace, status: ModelStatus, token: Token) -> dict[str, Any]:
    from ..serving.launcher import model_status

    default = model_status(options.management_url, status.name, token=token)
    return {
        "model": status.name,
        "version": status.version,
        "default_version": default.version,
        "workers": list(status.workers),
    }


def _ask_endpoint(
    options: argparse.Namespace, statuses: Sequence[ModelStatus], token: Token
) -> None:
    """Ask the endpoint about each version, because workers are ready without a usable store too.

    Raises:
        IsplitError: the endpoint's error, or the error of reaching it.
    """
    from ..client import fetch_recommendation
    from ..serving.launcher import ENDPOINT_MODEL, model_status

    models = [status for status in statuses if status.name != ENDPOINT_MODEL]
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
    for status in models:
        name = f"{status.name} {status.version}"
        try:
            fetch_recommendation(
                options.url, status.name, version=status.version, token=inference_token
            )
        except IsplitError as error:
            raise type(error)(
                f"{name} is registered, but the endpoint at {options.url} gives no recommendation "
                f"for it: {error.message}",
                **error.details,
            ) from error
