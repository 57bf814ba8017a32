"""Which headers pass, in both directions. All others end here.

So none that TorchServe or a handler acts on (``describe``, ``explain``, ``url_path``), no
hop-by-hop header and no identity but the admitted one reaches TorchServe.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..device_tokens import DEVICE_HEADER
from ..errors import WireError
from ..wire import HEADER, SERVER_TIME

_OURS: Final = "isplit-"
_REQUEST: Final = frozenset({"content-type", HEADER.lower()})
_ANSWER: Final = frozenset(
    {"content-type", HEADER.lower(), "x-request-id", "cache-control", "retry-after"}
)
# TorchServe looks for this one as it is spelt here.
_SPELT: Final = {"content-type": "Content-Type", HEADER.lower(): HEADER}
_FORMS: Final = ("multipart/", "application/x-www-form-urlencoded")


def request_headers(headers: Iterable[tuple[str, str]], device_token: str) -> dict[str, str]:
    """The headers for TorchServe, without its own token and the body's length.

    Raises WireError for a header that comes twice, and for a body that is compressed or a form.
    """
    passed: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        if key == "content-encoding" and value.lower() != "identity":
            raise WireError(f"expected no Content-Encoding, got {value[:40]!a}")
        if key == DEVICE_HEADER or not (key in _REQUEST or key.startswith(_OURS)):
            continue
        spelt = _SPELT.get(key, key)
        if spelt in passed:
            raise WireError(f"expected one header {spelt}, got several")
        if key == "content-type" and value.strip().lower().startswith(_FORMS):
            raise WireError(
                "expected the bytes as they are (curl -T FILE), not a form (curl -d and "
                "--data-binary send one)"
            )
        passed[spelt] = value
    passed[DEVICE_HEADER] = device_token
    return passed


def answer_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The headers of TorchServe's answer that go on to the device.

    What it took is for the forwarder to say.
    """
    return {
        name: value
        for name, value in headers
        if name.lower() in _ANSWER
        or (name.lower().startswith(_OURS) and name.lower() != SERVER_TIME)
    }
