"""TorchServe's ``key_file.json``, as a device or an operator's command reads it."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import AuthenticationError


def read_key(path: str | Path, kind: str = "inference") -> str:
    """A token of a TorchServe key file.

    TorchServe replaces the tokens in the file before they expire. A client that gets this function
    as its ``token`` always sends a valid one::

        SplitClient(url, model="resnet50", token=lambda: read_key("key_file.json"))

    Parameters:
        path: the server's ``key_file.json``, or an up-to-date copy.
        kind: ``inference``, ``management`` or ``API``.

    Raises:
        AuthenticationError: the file cannot be read or holds no such token.
    """
    try:
        return str(json.loads(Path(path).read_text())[kind]["key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AuthenticationError(
            f"{path}: expected TorchServe's key file with a {kind!r} key "
            f"({type(error).__name__}: {error})"
        ) from error
