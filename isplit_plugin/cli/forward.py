"""``isplit forward``: let devices reach a TorchServe that runs already, until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from ..device_tokens import SECRET_VARIABLE
from . import common
from .forwarder_options import add_forwarder, device_commands, forwarder_settings, log_to_stderr

HELP: Final = "let devices reach TorchServe with their device tokens alone"
DESCRIPTION: Final = """\
Stand between devices and TorchServe. The forwarder admits a device by its device
token, gives the request TorchServe's token, which it reads and renews, and passes
predictions, probes, questions and labels of the named models, and nothing else.
It ends TLS, and bounds rates, bodies and connections. isplit serve --forward
starts it together with TorchServe. Ctrl-C or SIGTERM lets running requests end.
"""
EPILOG: Final = """\
examples:
  isplit forward --model resnet50             # beside isplit serve --devices
  isplit forward --model resnet50 --host 0.0.0.0 \\
      --certificate cert.pem --private-key key.pem
  isplit forward --model resnet50 --token-file /srv/torchserve/key_file.json \\
      --secret-file device.secret             # beside a TorchServe of your own
Devices need a token of isplit device issue, and --url https://HOST:8443.
isplit device revoke ends a device's tokens at once. GET /ping needs no token: it
says whether TorchServe answers.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="NAME",
        help="a model that devices may use; may be repeated",
    )
    group = parser.add_argument_group("TorchServe")
    group.add_argument(
        "--to",
        default="http://127.0.0.1:8080",
        metavar="URL",
        help="inference address (default: %(default)s)",
    )
    group.add_argument(
        "--management-url",
        default="http://127.0.0.1:8081",
        metavar="URL",
        help="where TorchServe's token is renewed (default: %(default)s)",
    )
    group.add_argument(
        "--workdir",
        type=Path,
        default=Path("isplit-run"),
        metavar="DIR",
        help="of isplit serve, with its key file and secret (default: %(default)s)",
    )
    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="TorchServe's key file (default: WORKDIR/key_file.json)",
    )
    group.add_argument(
        "--no-tokens", action="store_true", help="TorchServe requires no tokens of its own"
    )
    group.add_argument(
        "--secret-file",
        type=Path,
        metavar="FILE",
        help=f"the operator's secret, or set {SECRET_VARIABLE} (default: WORKDIR/device.secret)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object when devices can connect"
    )
    add_forwarder(parser)


def run(options: argparse.Namespace) -> int:
    from ..forwarder import Forwarder

    secret_file = Path(
        options.secret_file or os.environ.get(SECRET_VARIABLE) or options.workdir / "device.secret"
    )
    key_file = None
    if not options.no_tokens:
        key_file = options.token_file or options.workdir / "key_file.json"
        if not key_file.exists():
            common.note(options, f"note: no {key_file} yet; requests are refused until it is there")
    settings = forwarder_settings(
        options,
        models=options.model,
        secret_file=secret_file,
        url=options.to,
        key_file=key_file,
        management_url=None if options.no_tokens else options.management_url,
    )
    log_to_stderr(options)
    forwarder = Forwarder(settings)
    try:
        with forwarder:
            _announce(options, forwarder.url, secret_file)
            while forwarder.is_running:
                time.sleep(0.5)
    except KeyboardInterrupt:
        return 0
    print("isplit forward: the forwarder ended by itself", file=sys.stderr)
    return 5


def _announce(options: argparse.Namespace, url: str, secret_file: Path) -> None:
    if options.json:
        print(json.dumps({"url": url, "models": options.model, "pid": os.getpid()}), flush=True)
        return
    print(f"devices reach {', '.join(options.model)} at {url}")
    print("\n".join(device_commands(url, secret_file)))
    print("Ctrl-C stops the forwarder.", flush=True)
