"""What ``isplit forward`` and ``isplit serve --forward`` share: options, settings, log lines."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..forwarder import ForwarderSettings

DEFAULT_PORT: Final = 8443
_LOGGERS: Final = ("isplit_plugin.forwarder", "isplit_plugin.device_tokens")
_LIMITS: Final = {
    "rate": ("requests of one device in a second, over time", 50.0),
    "burst": ("requests that one device may send at once after a pause", 100.0),
    "connections": ("open connections", 1024),
    "connections_per_address": ("open connections from one address", 128),
    "max_body": ("bytes of the body of a prediction", 33_554_432),
}


def add_forwarder(parser: argparse.ArgumentParser, *, prefix: str = "") -> None:
    """Add the options of a forwarder; ``prefix`` is in front of those of its address."""
    group = parser.add_argument_group("forwarder")
    group.add_argument(
        f"--{prefix}host",
        dest="forward_host",
        default="127.0.0.1",
        metavar="HOST",
        help="address for devices; 0.0.0.0 for all interfaces (default: %(default)s)",
    )
    group.add_argument(
        f"--{prefix}port",
        dest="forward_port",
        type=int,
        default=DEFAULT_PORT,
        metavar="N",
        help="port for devices; 0: a free one (default: %(default)s)",
    )
    group.add_argument(
        "--certificate",
        type=Path,
        metavar="FILE",
        help="PEM file of the certificate and its chain; read again when it changes",
    )
    group.add_argument(
        "--private-key",
        type=Path,
        metavar="FILE",
        help="PEM file of the certificate's key, mode 0600, without a password",
    )
    group.add_argument(
        "--plain",
        action="store_true",
        help="no TLS, although other machines can reach the address: something in front ends it",
    )
    group.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME",
        help="admit tokens of this group only; may be repeated (default: all valid tokens)",
    )
    group.add_argument(
        "--explanations", action="store_true", help="let devices ask for explanations"
    )
    for name, (text, default) in _LIMITS.items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default,
            metavar="N",
            help=f"{text} (default: %(default)s)",
        )


def forwarder_settings(
    options: argparse.Namespace,
    *,
    models: Sequence[str],
    secret_file: Path,
    url: str,
    key_file: Path | None,
    management_url: str | None,
) -> ForwarderSettings:
    """The settings that the options name. Raises ServingError."""
    from ..forwarder import ForwarderSettings, Limits

    return ForwarderSettings(
        models=tuple(models),
        secret_file=secret_file,
        url=url,
        key_file=key_file,
        management_url=management_url,
        host=options.forward_host,
        port=options.forward_port,
        certificate=options.certificate,
        private_key=options.private_key,
        plain=options.plain,
        groups=tuple(options.group),
        explanations=options.explanations,
        limits=Limits(**{name: getattr(options, name) for name in _LIMITS}),
    )


def check_forwarder(options: argparse.Namespace) -> None:
    """Check the options before TorchServe is started for them.

    Raises:
        ServingError: they do not belong together.
        SecretError, ArtifactError: the certificate or its key cannot be used.
    """
    from ..forwarder import check_certificate

    check_certificate(
        forwarder_settings(
            options,
            models=("any",),
            secret_file=Path(),
            url="http://127.0.0.1:8080",
            key_file=None,
            management_url=None,
        )
    )


def log_to_stderr(options: argparse.Namespace) -> None:
    """Write the forwarder's warnings to stderr, one line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s isplit {options.command}: %(message)s"))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False


def device_commands(url: str, secret_file: Path) -> list[str]:
    """What an operator and a device type next."""
    return [
        f"isplit device issue --id phone-1 --days 90 --secret-file {secret_file} -o phone-1.token",
        f"isplit predict PHOTO --url {url} --device-token-file phone-1.token "
        "--model MODEL --head MODEL.head.zip",
    ]
