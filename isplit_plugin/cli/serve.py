"""``isplit serve``: run TorchServe with split models and the endpoint until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import IsplitError
from ..terminal import table
from . import common
from .forwarder_options import (
    add_forwarder,
    check_forwarder,
    device_commands,
    forwarder_settings,
    log_to_stderr,
)

if TYPE_CHECKING:
    from ..forwarder import Forwarder
    from ..serving.launcher import TorchServe

HELP: Final = "start TorchServe with split models and the endpoint, and a forwarder for devices"
DESCRIPTION: Final = """\
Start TorchServe with the configuration of isplit-plugin: tokens are required,
activations fit into requests, the log is short, and folders are private. The
command waits until every worker is ready, prints where to send requests, and
stops the server at Ctrl-C or SIGTERM. With --forward, devices reach the models
with their device tokens alone (isplit forward --help).
"""
EPILOG: Final = """\
examples:
  isplit serve                                  # every .mar in model_store/
  isplit serve resnet50 --inference-port 9080   # one model, and the endpoint
  isplit serve resnet50/2.0 resnet50/1.0        # two versions; 2.0 is the default one
  isplit serve --forward                        # and the forwarder, for this machine
  isplit serve --forward --forward-host 0.0.0.0 --certificate cert.pem --private-key key.pem
  isplit serve --set tail.sampling=0.1 --set endpoint.min_gain=0.1
Of several versions, the first one that is named is the server's default version,
and without names the lowest: it answers requests that name no version.
Statistics are kept in WORKDIR/store.db and survive a restart. Relative paths, in
options and in ISPLIT_* variables, are relative to the current folder.
To use a TorchServe that runs already, see isplit register --help.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="NAME, for all versions of a model, NAME/VERSION, or a file in the model store "
        "(default: everything)",
    )
    parser.add_argument(
        "--model-store",
        type=Path,
        default=Path("model_store"),
        metavar="DIR",
        help="folder with the archives (default: %(default)s)",
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        default=Path("isplit-run"),
        metavar="DIR",
        help="folder for log, key file and store (default: %(default)s)",
    )
    parser.add_argument(
        "--store",
        metavar="URL",
        help="SQLAlchemy URL of the store, or set ISPLIT_STORE (default: WORKDIR/store.db)",
    )
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="settings of the workers in YAML, or set ISPLIT_SETTINGS (isplit docs settings)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="assignments",
        metavar="KEY=VALUE",
        help="one setting: tail.KEY, endpoint.KEY or models.NAME.KEY (may be repeated)",
    )
    parser.add_argument("--model-api", action="store_true", help="allow isplit register")
    parser.add_argument(
        "--timeout",
        type=float,
        default=180.0,
        metavar="S",
        help="seconds until every worker must be ready (default: %(default)s)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object when the server is ready"
    )
    _add_addresses(parser)
    _add_tokens(parser)
    parser.add_argument(
        "--forward",
        action="store_true",
        help="start the forwarder too, which devices reach; implies --devices",
    )
    add_forwarder(parser, prefix="forward-")


def _add_addresses(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("addresses (port 0: a free one)")
    group.add_argument(
        "--host", default="127.0.0.1", help="of the inference port (default: %(default)s)"
    )
    for name, port in (("inference", 8080), ("management", 8081), ("metrics", 8082)):
        group.add_argument(
            f"--{name}-port", type=int, default=port, metavar="N", help="default: %(default)s"
        )


def _add_tokens(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tokens")
    group.add_argument(
        "--devices",
        action="store_true",
        help="know devices by device tokens; the secret is the file that ISPLIT_SECRET_FILE "
        "names, or WORKDIR/device.secret, which is made",
    )
    group.add_argument(
        "--token-minutes",
        type=float,
        default=60.0,
        metavar="M",
        help="how long a TorchServe token is valid (default: %(default)s)",
    )
    group.add_argument(
        "--no-tokens",
        action="store_true",
        help="require no TorchServe tokens (not for an address that others can reach)",
    )


def run(options: argparse.Namespace) -> int:
    from ..serving.launcher import TorchServe, check_port
    from ..serving.settings import STORE_VARIABLE

    # Private, because it holds tokens and statistics.
    options.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if options.forward:
        options.devices = True
        check_forwarder(options)
        check_port(options.forward_host, options.forward_port, "forward_port")
    common.note(options, "starting TorchServe ...")
    with TorchServe(
        model_store=options.model_store,
        models=_archives(options),
        workdir=options.workdir,
        host=options.host,
        inference_port=options.inference_port,
        management_port=options.management_port,
        metrics_port=options.metrics_port,
        store=options.store
        or os.environ.get(STORE_VARIABLE)
        or f"sqlite:///{options.workdir / 'store.db'}",
        devices=options.devices,
        tokens=not options.no_tokens,
        token_minutes=options.token_minutes,
        model_api=options.model_api,
        worker_settings=_worker_settings(options),
        timeout=options.timeout,
    ) as server:
        forwarder = _forwarder(server, options)
        with forwarder or nullcontext():
            announce(server, options, forwarder)
            try:
                ended = _wait(server, options, forwarder)
            except KeyboardInterrupt:
                common.note(options, "\nstopping ...")
                return 0
        print(f"isplit serve: {ended} ended by itself; see {server.log_path}", file=sys.stderr)
        return 5


def _wait(server: TorchServe, options: argparse.Namespace, forwarder: Forwarder | None) -> str:
    """Keep tokens fresh until a part ends by itself; its name."""
    while True:
        time.sleep(1.0)
        if not options.no_tokens:
            _keep_tokens(server)
        if server.pid is None:
            return "TorchServe"
        if forwarder is not None and not forwarder.is_running:
            return "the forwarder"


def _forwarder(server: TorchServe, options: argparse.Namespace) -> Forwarder | None:
    if not options.forward:
        return None
    from ..forwarder import Forwarder
    from ..serving.launcher import ENDPOINT_MODEL

    log_to_stderr(options)
    return Forwarder(
        forwarder_settings(
            options,
            models=[name for name in server.models if name != ENDPOINT_MODEL],
            secret_file=server.secret_path,
            url=server.inference_url,
            key_file=None if options.no_tokens else server.key_path,
            management_url=None,  # this command renews the token
        )
    )


def announce(server: TorchServe, options: argparse.Namespace, forwarder: Forwarder | None) -> None:
    """Print where the server is and how to reach it."""
    from ..serving.launcher import curl_requests

    key_path = None if options.no_tokens else server.key_path
    secret_path = server.secret_path if options.devices else None
    if options.json:
        report = {
            "inference_url": server.inference_url,
            "management_url": server.management_url,
            "metrics_url": server.metrics_url,
            "key_file": None if key_path is None else str(key_path),
            "secret_file": None if secret_path is None else str(secret_path),
            "forwarder_url": None if forwarder is None else forwarder.url,
            "log": str(server.log_path),
            "pid": server.pid,
        }
        print(json.dumps(report), flush=True)
        return
    rows = [
        ("inference", server.inference_url),
        ("management", server.management_url),
        ("metrics", f"{server.metrics_url}/metrics"),
        ("log", str(server.log_path)),
    ]
    if key_path is not None:
        rows.append(("tokens", f"{key_path} (renewed while this command runs; read it again)"))
    if forwarder is not None:
        rows.append(("forwarder", f"{forwarder.url} (for devices)"))
    elif secret_path is not None:
        command = f"isplit device issue --id ID --days 90 --secret-file {secret_path}"
        rows.append(("devices", command))
    print(table(("ready", "where"), rows))
    if forwarder is None or secret_path is None:
        commands = curl_requests(server.inference_url, key_path)
    else:
        commands = device_commands(forwarder.url, secret_path)
    lines = "\n".join(commands)
    print(f"\n{lines}\nCtrl-C stops the server.", flush=True)


def _keep_tokens(server: TorchServe) -> None:
    """Renew tokens and print errors: the next turn tries again, or sees that the server ended."""
    try:
        server.keep_tokens()
    except IsplitError as error:
        print(f"isplit serve: {error.message}", file=sys.stderr)


def _worker_settings(options: argparse.Namespace) -> dict[str, Any] | Path | None:
    """The settings of the options; those of ``--set`` over those of the file."""
    from ..serving.settings_file import SettingsFile, parse_assignments

    if not options.assignments:
        return options.settings  # type: ignore[no-any-return]
    assigned = SettingsFile.of(parse_assignments(options.assignments), "--set", Path.cwd())
    if options.settings is not None:
        assigned = SettingsFile.read(options.settings).with_overrides(assigned)
    return assigned.to_yaml()


def _archives(options: argparse.Namespace) -> list[str] | None:
    """File names of the chosen models and of the endpoint; ``None`` for all in the store."""
    from ..serving.launcher import ENDPOINT_MODEL, find_archives

    if not options.models:
        return None
    paths = find_archives(options.model_store, options.models)
    archives = [path.name for path in paths]
    endpoint = f"{ENDPOINT_MODEL}.mar"
    if endpoint not in archives and (options.model_store / endpoint).is_file():
        archives.append(endpoint)
    return archives
