"""What a forwarder is told: where TorchServe is, who is admitted to what, and the limits."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ..errors import ServingError

DEFAULT_PORT: Final = 8443


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much devices may send. All values are positive.

    Attributes:
        rate: requests of one device in a second, over time.
        burst: requests that one device may send at once after a pause.
        requests_per_device: requests of one device that are answered at the same time.
        requests: requests that are answered at the same time.
        connections: open connections.
        connections_per_address: open connections from one address.
        max_body: bytes of the body of a prediction.
        idle_s: seconds that a connection may wait for a complete request head.
        body_grace_s: seconds before the pace of a body is looked at.
        body_rate: bytes per second that a body must arrive with after that.
        answer_s: seconds to wait for TorchServe's answer.
        unread_s: seconds that an answer may lie unread before its connection is ended.
        drain_s: seconds that running requests have to end when the forwarder stops.
    """

    rate: float = 50.0
    burst: float = 100.0
    requests_per_device: int = 16
    requests: int = 128
    connections: int = 1024
    connections_per_address: int = 128
    max_body: int = 33_554_432
    idle_s: float = 15.0
    body_grace_s: float = 10.0
    body_rate: float = 16_384.0
    answer_s: float = 150.0
    unread_s: float = 20.0
    drain_s: float = 20.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value > 0 or value == float("inf"):
                raise ServingError(f"{item.name}: expected a number above 0, got {value}")
        if self.burst < 1:
            raise ServingError(f"burst: expected at least 1, got {self.burst}")


@dataclass(frozen=True, kw_only=True)
class ForwarderSettings:
    """Where a forwarder listens, where TorchServe is, and who is admitted to what.

    Attributes:
        models: names of the models that devices may use.
        secret_file: the operator's secret, by which device tokens are verified. The list of revoked
            ids is beside it.
        url: TorchServe's inference address.
        key_file: TorchServe's key file; ``None`` if TorchServe requires no tokens.
        management_url: TorchServe's management address, where the token is renewed before it
            expires; ``None`` if another program does that.
        host, port: address to listen on; port 0 takes a free one.
        certificate: PEM file of the certificate and its chain. With ``private_key``, TLS.
        private_key: PEM file of the certificate's key, readable by its owner only.
        plain: without TLS, listen on an address that other machines can reach all the same.
        groups: admit the tokens of these groups only; empty: all valid tokens.
        explanations: whether devices may ask for explanations.
        limits: see :class:`Limits`.

    Raises:
        ServingError: the values do not belong together.
    """

    models: tuple[str, ...]
    secret_file: Path
    url: str = "http://127.0.0.1:8080"
    key_file: Path | None = None
    management_url: str | None = None
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    certificate: Path | None = None
    private_key: Path | None = None
    plain: bool = False
    groups: tuple[str, ...] = ()
    explanations: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.models:
            raise ServingError("expected the name of at least one model that devices may use")
        for url in (self.url, self.management_url):
            if url is not None and not _is_address(url):
                raise ServingError(f"expected an address like http://127.0.0.1:8080, got {url!r}")
        if (self.certificate is None) != (self.private_key is None):
            raise ServingError("TLS: expected a certificate and its private key, got one of them")
        if not (self.tls or self.plain or _is_loopback(self.host)):
            raise ServingError(
                f"{self.host}: expected a certificate and its private key, because others could "
                "read device tokens on their way; --plain if something in front of the forwarder "
                "ends TLS"
            )

    @property
    def tls(self) -> bool:
        """Whether the forwarder ends TLS."""
        return self.certificate is not None


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and parts.username is None
            and parts.path in ("", "/")
            and not (parts.query or parts.fragment)
        )
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
