"""TorchServe's inference token: read again when the key file changes, renewed before it expires."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from ..client import read_key
from ..errors import AuthenticationError, IsplitError, ServerUnavailableError
from ..serving.launcher import KeyFile

_LOGGER = logging.getLogger(__name__)
_RENEW_EVERY_S: Final = 1.0


class InferenceToken:
    """The token that TorchServe demands.

    TorchServe writes a new key file at its start and at each renewal. The file is looked at for
    every request, so a new token is in use with the next one.

    Parameters:
        key_file: TorchServe's key file.
        management_url: where the token is renewed; ``None`` if another program renews it.
    """

    def __init__(self, key_file: Path, management_url: str | None) -> None:
        self._path = key_file
        self._keys = None if management_url is None else KeyFile(key_file, management_url)
        self._version: tuple[int, int, int] | None = None
        self._token: str | None = None

    def current(self) -> str:
        """The token now.

        Raises ServerUnavailableError if there is none, because TorchServe has not started yet.
        """
        version = self._version_now()
        if version is not None and version != self._version:
            try:
                self._token = read_key(self._path)
                self._version = version
            except AuthenticationError as error:
                # TorchServe writes in place: a part of the file is read again next time.
                _LOGGER.debug("%s", error.message)
        if self._token is None:
            raise ServerUnavailableError(
                "TorchServe has written no token yet; try again", retry_after_s=1
            )
        return self._token

    def read_again(self) -> None:
        """Read the file again for the next request, changed or not."""
        self._version = None

    async def keep(self) -> None:
        """Renew the token before it expires, until this is cancelled. Problems are logged."""
        problem = ""
        while self._keys is not None:
            try:
                await asyncio.to_thread(self._keys.token)
                problem = ""
            except IsplitError as error:
                if error.message != problem:
                    problem = error.message
                    _LOGGER.warning("TorchServe's token: %s", problem)
            await asyncio.sleep(_RENEW_EVERY_S)

    def _version_now(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return (status.st_ino, status.st_size, status.st_mtime_ns)
