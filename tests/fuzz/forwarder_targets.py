"""Targets: what reaches the forwarder before a device is admitted, and the list of revoked ids."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from isplit_plugin.device_tokens import RevokedDevices, revoke
from isplit_plugin.errors import SecretError, UnknownModelError, UnknownRouteError, WireError
from isplit_plugin.forwarder.routes import read_route

from .target import Target

_MODELS: Final = frozenset({"toy", "a b"})
_ROUTES: Final = (
    b"POST /predictions/toy",
    b"PUT /predictions/a%20b/1.0",
    b"POST /v2/models/toy/infer",
    b"POST /explanations/toy",
    b"POST /predictions/isplit",
    b"GET /predictions/isplit/1.0/help",
    b"GET /predictions/isplit/1.0/recommendations/toy/classes/1,2/group/K%C3%B6ln",
)


def _read_route(case: bytes) -> None:
    method, _, target = case.decode("latin-1").partition(" ")
    route = read_route(method, target, _MODELS, explanations=True)
    assert read_route(method, route.path, _MODELS, explanations=True) == route
    segments = route.path.split("/")
    assert segments[1] in ("predictions", "explanations", "v2")
    assert not {"", ".", ".."} & set(segments[1:])
    assert not {"%2f", "%5c", "%25", "%00"} & {
        route.path.lower()[at : at + 3] for at in range(len(route.path))
    }


class _List:
    """A list of revoked ids in a folder of its own."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="isplit-fuzz-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = Path(folder, "secret.revoked")


@cache
def _list() -> _List:
    return _List()


def _read_revoked(case: bytes) -> None:
    path = _list().path
    path.write_bytes(case)
    path.chmod(0o600)
    before = RevokedDevices(path).times()
    revoke(path, ["cam"], clock=lambda: 1e12)
    after = RevokedDevices(path).times()
    assert after.keys() == before.keys() | {"cam"}


def _lists() -> Iterator[bytes]:
    yield b""
    yield b"# lost\n\ncam-1\ncam-2 1763756917.123\n"
    yield b"cam 5\ncam 6\nother inf"


FORWARDER_TARGETS: Final = (
    Target(
        name="forwarder-route",
        summary="method and path at the forwarder",
        run=_read_route,
        seeds=lambda: _ROUTES,
        errors=(WireError, UnknownRouteError, UnknownModelError),
        json_at=None,
        words=("predictions", "isplit", "toy", "%2f", "%2e", "..", "//", "%25", "models", "v2"),
    ),
    Target(
        name="revoked-list",
        summary="list of revoked ids",
        run=_read_revoked,
        seeds=_lists,
        errors=(SecretError,),
        json_at=None,
        words=("inf", "nan", "1e9", "#", "cam"),
    ),
)
