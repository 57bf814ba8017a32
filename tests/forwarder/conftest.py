"""A toy TorchServe with a token, and forwarders in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from toys.client import TOKEN, Server
from toys.forwarder import Forward, Issue, write_key

from isplit_plugin.device_tokens import issue, new_secret, read_secret
from isplit_plugin.forwarder import Forwarder, ForwarderSettings, Limits


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    return new_secret(tmp_path / "device.secret")


@pytest.fixture
def issued(secret_file: Path) -> Issue:
    """Issues device tokens; ``days=1`` and no group if nothing else is said."""

    def make(device_id: str = "phone-1", *, days: float = 1.0, **more: Any) -> str:
        return issue(read_secret(secret_file), device_id, days=days, **more)

    return make


@pytest.fixture
def key_file(tmp_path: Path, server: Server) -> Path:
    path = tmp_path / "key_file.json"
    write_key(path, TOKEN)
    server.state.token = TOKEN
    return path


@pytest.fixture
def forward(server: Server, key_file: Path, secret_file: Path) -> Iterator[Forward]:
    """Starts forwarders; keywords change their settings or, if they are limits, their limits."""
    with ExitStack() as stack:

        def start(**changes: Any) -> Forwarder:
            names = Limits.__dataclass_fields__
            limits = {name: changes.pop(name) for name in list(changes) if name in names}
            settings: dict[str, Any] = {
                "models": ("toy",),
                "secret_file": secret_file,
                "url": server.url,
                "key_file": key_file,
                "port": 0,
                "limits": Limits(**{"drain_s": 5.0, **limits}),
            }
            forwarder = Forwarder(ForwarderSettings(**{**settings, **changes}))
            return stack.enter_context(forwarder)

        yield start


@pytest.fixture(autouse=True)
def _short_backoff(short_backoff: None) -> None:
    pass
