"""Shared by several commands: connection options, tokens, argument types, notes and JSON."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactError, AuthenticationError, QueryError

if TYPE_CHECKING:
    from ..client import Token


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the server is and which token it gets."""
    group = parser.add_argument_group("server: a forwarder, or TorchServe itself")
    group.add_argument(
        "--url",
        default=os.environ.get("ISPLIT_URL", "http://127.0.0.1:8080"),
        help="the forwarder's address, or TorchServe's inference address, or set ISPLIT_URL "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--device-token-file",
        type=Path,
        metavar="FILE",
        help="a device token of isplit device issue, by which a forwarder admits this device",
    )
    group.add_argument(
        "--device-token", metavar="TOKEN", help="the token itself, or set ISPLIT_DEVICE_TOKEN"
    )
    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="without a forwarder: TorchServe's key_file.json, which is read again when the token "
        "has expired",
    )
    group.add_argument(
        "--token",
        metavar="TOKEN",
        help="without a forwarder: TorchServe's inference token itself, or set ISPLIT_TOKEN",
    )


def add_management(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the management API is and which token it gets."""
    parser.add_argument(
        "--management-url",
        default=os.environ.get("ISPLIT_MANAGEMENT_URL", "http://127.0.0.1:8081"),
        metavar="URL",
        help="management address, or set ISPLIT_MANAGEMENT_URL (default: %(default)s)",
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="TorchServe's key_file.json"
    )
    parser.add_argument(
        "--token", metavar="TOKEN", help="the management token itself, or set ISPLIT_TOKEN"
    )


def token_of(options: argparse.Namespace, kind: str = "inference") -> Token:
    """The token that the options name: a function that reads the key file, a token, or ``None``.

    Raises:
        AuthenticationError: the key file holds no token of this kind.
    """
    if options.token_file is not None:
        from ..client import read_key

        path: Path = options.token_file
        read_key(path, kind)  # fail now, with a clear message, not at the first request
        return lambda: read_key(path, kind)
    return options.token or os.environ.get("ISPLIT_TOKEN") or None


def device_token_of(options: argparse.Namespace) -> Token:
    """The device token that the options name: a function that reads the file, a token, or ``None``.

    Raises:
        AuthenticationError: the file cannot be read.
    """
    if options.device_token_file is not None:
        path: Path = options.device_token_file
        _read_device_token(path)  # as in token_of
        return lambda: _read_device_token(path)
    return options.device_token or os.environ.get("ISPLIT_DEVICE_TOKEN") or None


def bearer_of(options: argparse.Namespace) -> Token:
    """What lets a request in: TorchServe's token if the options name one, or the device token."""
    token = token_of(options)
    return device_token_of(options) if token is None else token


def _read_device_token(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AuthenticationError(
            f"{path}: expected a device token of isplit device issue ({error})"
        ) from error


def positive_int(text: str) -> int:
    """A whole number from 1, as the type of an argument."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def positive_seconds(text: str) -> float:
    """Seconds above 0, as the type of an argument."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return seconds


def class_ids(text: str) -> tuple[int, ...]:
    """Comma-separated class ids. Raises QueryError."""
    ids = []
    for word in (part.strip() for part in text.split(",")):
        if not word.isdigit():
            raise QueryError(
                f"expected class ids like 281,282, got {word!r}; the endpoint lists ids and names"
            )
        ids.append(int(word))
    return tuple(ids)


def make_folder(path: Path) -> Path:
    """Make a folder for results, so that a problem shows before the work is done.

    Raises:
        ArtifactError: the folder cannot be made, or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{path}: expected a folder to write to ({error.strerror})") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ArtifactError(f"{path}: expected a folder to write to (permission denied)")
    return path


def note(options: argparse.Namespace, text: str) -> None:
    """Print a line about progress on stderr, unless the output is JSON for a program, or another
    process prints it (``options.quiet``)."""
    if not (getattr(options, "json", False) or getattr(options, "quiet", False)):
        print(text, file=sys.stderr, flush=True)


def emit_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False, default=str)
    sys.stdout.write("\n")
