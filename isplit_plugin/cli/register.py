"""``isplit register``: put a packaged model onto a TorchServe of your own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from ..errors import ArtifactError
from . import common

HELP: Final = "register packaged models with a TorchServe that already runs"
DESCRIPTION: Final = """\
Register archives with a TorchServe of your own and wait until their workers are ready. A load that fails is taken
away again, and the reason is printed.

The server must see the archives in its model store, have isplit-plugin[server] in its Python environment, run with
enable_model_api=true, and accept requests as large as your activations (max_request_size, max_response_size).
"""
EPILOG: Final = """\
examples:
  isplit register model_store/resnet50.mar model_store/isplit.mar --token-file key_file.json
  isplit register model_store/resnet50.mar --print-curl       # the same as curl commands, nothing is sent
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archives", nargs="+", type=Path, metavar="MAR")
    parser.add_argument(
        "--management-url", default="http://127.0.0.1:8081", metavar="URL", help="%(default)s"
    )
    parser.add_argument("--workers", type=common.whole, default=1, metavar="N", help="%(default)s")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="TorchServe's key_file.json"
    )
    parser.add_argument(
        "--token", metavar="TOKEN", help="the management token itself (or set ISPLIT_TOKEN)"
    )
    parser.add_argument(
        "--server-log", type=Path, metavar="FILE", help="the server's log, to say why a load failed"
    )
    parser.add_argument("--timeout", type=float, default=180.0, metavar="S", help="%(default)s")
    parser.add_argument(
        "--print-curl", action="store_true", help="print the curl commands and do nothing"
    )
    parser.add_argument("--json", action="store_true", help="what was registered, as JSON")


def run(options: argparse.Namespace) -> int:
    from ..serving.launcher import curl_commands, register

    missing = [str(path) for path in options.archives if not path.is_file()]
    if missing:
        raise ArtifactError(f"expected a .mar archive, found no file at {', '.join(missing)}")
    if options.print_curl:
        for path in options.archives:
            print("\n".join(curl_commands(options.management_url, path, workers=options.workers)))
        return 0
    token = common.token_of(options, "management")
    done = []
    for path in options.archives:
        status = register(
            options.management_url,
            path,
            token=token,
            workers=options.workers,
            timeout=options.timeout,
            log_path=options.server_log,
        )
        done.append(
            {"model": status.name, "version": status.version, "workers": list(status.workers)}
        )
        if not options.json:
            print(
                f"{status.name} {status.version}: {len(status.workers)} worker(s), {', '.join(status.workers)}"
            )
    if options.json:
        common.emit_json(done)
    return 0
