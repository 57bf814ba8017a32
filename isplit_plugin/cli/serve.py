"""``isplit serve``: TorchServe with our configuration, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import IsplitError
from . import common

if TYPE_CHECKING:
    from ..serving.launcher import TorchServe

HELP: Final = "start TorchServe with split models and the recommendation endpoint"
DESCRIPTION: Final = """\
Start a TorchServe with our configuration: tokens on, request limits that fit activations, a quiet log, private folders.
Waits until every worker is ready, prints where to send requests, and stops cleanly at Ctrl-C or SIGTERM.
"""
EPILOG: Final = """\
examples:
  isplit serve                                    # every .mar in model_store/, the endpoint `isplit` included
  isplit serve resnet50 --inference-port 9080     # one model (and the endpoint)
Statistics live in WORKDIR/store.db and survive restarts. A TorchServe of your own? See isplit register --help.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="names in the model store (default: all)"
    )
    parser.add_argument(
        "--model-store", type=Path, default=Path("model_store"), metavar="DIR", help="%(default)s"
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        default=Path("isplit-run"),
        metavar="DIR",
        help="log, tokens, store (%(default)s)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address of the inference port (%(default)s)"
    )
    parser.add_argument(
        "--inference-port", type=int, default=8080, metavar="N", help="0: a free one (%(default)s)"
    )
    parser.add_argument(
        "--management-port", type=int, default=8081, metavar="N", help="%(default)s"
    )
    parser.add_argument("--metrics-port", type=int, default=8082, metavar="N", help="%(default)s")
    parser.add_argument(
        "--store",
        metavar="URL",
        help="SQLAlchemy address of the statistics (sqlite in the workdir)",
    )
    parser.add_argument(
        "--devices",
        action="store_true",
        help="know devices by tokens; the secret is WORKDIR/device.secret",
    )
    parser.add_argument(
        "--token-minutes",
        type=float,
        default=60.0,
        metavar="M",
        help="a token's life (%(default)s)",
    )
    parser.add_argument(
        "--no-tokens", action="store_true", help="let everybody in (not for a reachable address)"
    )
    parser.add_argument("--model-api", action="store_true", help="allow registering while it runs")
    parser.add_argument(
        "--timeout", type=float, default=180.0, metavar="S", help="until all is ready (%(default)s)"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON line when ready, for programs"
    )


def run(options: argparse.Namespace) -> int:
    from ..serving.launcher import ENDPOINT_MODEL, TorchServe

    options.workdir.mkdir(
        mode=0o700, parents=True, exist_ok=True
    )  # tokens and statistics are nobody else's
    models = [f"{name.removesuffix('.mar')}.mar" for name in options.models] or None
    endpoint = f"{ENDPOINT_MODEL}.mar"
    if models is not None and endpoint not in models and (options.model_store / endpoint).is_file():
        models.append(endpoint)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if not options.json:
        print("starting TorchServe ...", file=sys.stderr, flush=True)
    with TorchServe(
        model_store=options.model_store,
        models=models,
        workdir=options.workdir,
        host=options.host,
        inference_port=options.inference_port,
        management_port=options.management_port,
        metrics_port=options.metrics_port,
        store=options.store or f"sqlite:///{(options.workdir / 'store.db').resolve()}",
        devices=options.devices,
        tokens=not options.no_tokens,
        token_minutes=options.token_minutes,
        model_api=options.model_api,
        timeout=options.timeout,
    ) as server:
        announce(server, options)
        try:
            while not stop.wait(1.0):
                if not options.no_tokens:
                    keep_tokens(server)
                if server.pid is None:
                    print(
                        f"isplit serve: TorchServe ended by itself; see {server.log_path}",
                        file=sys.stderr,
                    )
                    return 5
        except KeyboardInterrupt:
            pass
        if not options.json:
            print("\nstopping ...", file=sys.stderr, flush=True)
    return 0


def keep_tokens(server: TorchServe) -> None:
    """Renew tokens that are about to expire, so that the key file always holds valid ones."""
    try:
        server.token("inference")
        server.token("management")
    except (
        IsplitError
    ) as error:  # tried again in a second; the next look at the process says whether it lives
        print(f"isplit serve: {error.message}", file=sys.stderr)


def announce(server: TorchServe, options: argparse.Namespace) -> None:
    """Say where the server is and how to reach it."""
    tokens = not options.no_tokens
    if options.json:
        import json

        where = {
            "inference_url": server.inference_url,
            "management_url": server.management_url,
            "metrics_url": server.metrics_url,
            "key_file": str(server.key_path) if tokens else None,
            "secret_file": str(server.secret_path) if options.devices else None,
            "log": str(server.log_path),
            "pid": server.pid,
        }
        print(json.dumps(where), flush=True)
        return
    rows = [("inference", server.inference_url), ("management", server.management_url)]
    rows += [("metrics", f"{server.metrics_url}/metrics"), ("log", str(server.log_path))]
    if tokens:
        rows.append(
            (
                "tokens",
                f"{server.key_path} (renewed by TorchServe's token API; the CLI reads it again)",
            )
        )
    if options.devices:
        rows.append(
            ("devices", f"isplit device issue --id ID --days 90 --secret-file {server.secret_path}")
        )
    print(common.table(("ready", "where"), rows))
    print(
        f"\n{curl_hint(server.inference_url, server.key_path if tokens else None)}\nCtrl-C stops it.",
        flush=True,
    )


def curl_hint(url: str, key_path: Path | None) -> str:
    """Commands to try in another shell."""
    lines = []
    auth = ""
    if key_path is not None:
        code = f"import json; print(json.load(open('{key_path}'))['inference']['key'])"
        lines.append(f'TOKEN=$(python3 -c "{code}")')
        auth = '-H "Authorization: Bearer $TOKEN" '
    lines += [
        f"curl {auth}{url}/predictions/isplit/1.0/models",
        f"curl {auth}{url}/predictions/isplit/1.0/recommendations/MODEL",
        f"curl {auth}-T photo.jpg {url}/predictions/MODEL        # the whole network on the server",
    ]
    return "\n".join(lines)
