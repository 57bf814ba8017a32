"""What the tests of the forwarder share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from isplit_plugin.forwarder import Forwarder

Forward = Callable[..., Forwarder]
"""Starts a forwarder with some settings or limits changed."""
Issue = Callable[..., str]
"""Issues a device token."""


def write_key(path: Path, token: str) -> None:
    """A key file as TorchServe writes it: in place."""
    entry = {"key": token, "expiration time": "2999-01-01T00:00:00Z"}
    keys = dict.fromkeys(("inference", "management", "API"), entry)
    path.write_text(json.dumps(keys))
