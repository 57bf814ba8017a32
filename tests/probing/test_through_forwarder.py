"""Probes pass the forwarder: the gradient to the device, and its part of the curve to the endpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys.probing import Bridge, client_of
from toys.serving import toy_photos

from isplit_plugin.device_tokens import revoke, revoked_path
from isplit_plugin.errors import TokenError
from isplit_plugin.forwarder import Forwarder, ForwarderSettings
from isplit_plugin.probing import ProbeClient
from isplit_plugin.serving.packaging import Built


def test_a_probe_needs_the_device_token_alone(served: Bridge, built: Built, secret: Path) -> None:
    settings = ForwarderSettings(models=("toy",), secret_file=secret, url=served.url, port=0)
    with (
        Forwarder(settings) as forwarder,
        ProbeClient(client_of(forwarder.url, built.bundle, device="d1", secret=secret)) as device,
    ):
        result = device.probe(toy_photos(1)[0])
        assert result is not None
        assert [path for path, _ in served.bodies][-1] == "/predictions/isplit"
        revoke(revoked_path(secret), ["d1"])
        with pytest.raises(TokenError, match="revoked"):
            device.probe(toy_photos(1)[0])
