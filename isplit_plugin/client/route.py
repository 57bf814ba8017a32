"""Which version of a model a client's requests go to.

A device's head belongs to one version. So its requests go to that version, whatever other versions
the server has and whichever is its default. Where the version is gone, the server's default version
is asked: it answers if it has the same network, and otherwise the head is out of date.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from ..errors import (
    IsplitError,
    NetworkMismatchError,
    UnknownModelError,
    UnknownVersionError,
)
from ..printable import printable
from ..schema import Manifest
from ..wire import load_json
from .names import check_model, check_version
from .recommendations import ENDPOINT
from .transport import Reply, Transport

_SHOWN: Final = 20
"""Versions in a message, and characters of each."""
_MAX_LISTING: Final = 1024 * 1024
_LOGGER = logging.getLogger("isplit.client")


class _Request(NamedTuple):
    body: bytes
    headers: Mapping[str, str]
    max_bytes: int | None
    within_s: float


class Route:
    """The way to the tail of one model. Several threads may use it.

    Parameters:
        model: the name that the model is registered by.
        version: the only version to use; by default that of ``manifest``, and the server's default
            version where that one is gone.
        manifest: of the head bundle, ``None`` without one.

    Raises:
        QueryError: ``model`` or ``version`` is no name.
    """

    def __init__(
        self, transport: Transport, model: str, version: str | None, manifest: Manifest | None
    ) -> None:
        self.model = check_model(model)
        self.version = None if version is None else check_version(version)
        self._transport = transport
        self._bundle_version = None if manifest is None else manifest.version
        self._bundle_version_is_gone = False

    def post(
        self,
        body: bytes,
        headers: Mapping[str, str],
        *,
        max_bytes: int | None = None,
        within_s: float = math.inf,
    ) -> Reply:
        """POST a body to the tail. Parameters and errors as of :meth:`Transport.post`."""
        request = _Request(body, headers, max_bytes, within_s)
        if self.version is not None:
            return self._post_to_named(self.version, request)
        if self._bundle_version is not None and not self._bundle_version_is_gone:
            try:
                return self._post_to(self._bundle_version, request)
            except UnknownVersionError:
                self._bundle_version_is_gone = True
                _LOGGER.warning(
                    "%s: the server has no version %s, which the head bundle belongs to: "
                    "its default version is used if it has the same network",
                    self.model,
                    self._bundle_version,
                )
        try:
            return self._post_to(None, request)
        except (NetworkMismatchError, UnknownModelError):
            self._bundle_version_is_gone = False  # it may be there again when the next one is sent
            raise

    def _post_to_named(self, version: str, request: _Request) -> Reply:
        try:
            return self._post_to(version, request)
        except UnknownVersionError as error:
            others = [name for name in self._versions() if name != version]
            if not others:
                raise
            raise UnknownVersionError(
                f"the server has no version {version!r} of model {self.model!r}; other versions in "
                f"the store: {', '.join(others)}",
                known=others,
            ) from error

    def _post_to(self, version: str | None, request: _Request) -> Reply:
        path = f"/predictions/{quote(self.model, safe='')}"
        if version is not None:
            path += f"/{quote(version, safe='')}"
        return self._transport.post(
            path,
            request.body,
            request.headers,
            max_bytes=request.max_bytes,
            within_s=request.within_s,
        )

    def _versions(self) -> list[str]:
        """The model's versions that the endpoint lists, for a message; empty where it cannot."""
        try:
            path = f"{ENDPOINT}/1.0/models/{quote(self.model, safe='')}"
            reply = self._transport.get(path, max_bytes=_MAX_LISTING)
            listing: Any = load_json(reply.body, "models", max_values=_MAX_LISTING // 16)
            names = [row["version"] for row in listing["models"] if row["model"] == self.model]
            return [printable(name, limit=_SHOWN) for name in names[:_SHOWN]]
        except (IsplitError, LookupError, TypeError):
            return []
