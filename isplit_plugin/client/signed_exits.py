"""An exit and its release as the endpoint answers them: signed, in base64, and checked here."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..errors import BundleError, ExitError, SecretError, WireError
from ..exits import Exit, ExitRelease, read_public_key, read_signed, verify
from ..schema import Cut, Manifest
from ..wire import load_json

MAX_ANSWER_BYTES: Final = 24 * 1024 * 1024
_KEY_BYTES: Final = 32

PublicKey = str | Path | bytes
"""The operator's public key: a PEM file, or its 32 bytes."""


class FetchedExit(NamedTuple):
    """An exit and what devices may do by it."""

    exit: Exit
    release: ExitRelease


class ExitReader:
    """Reads the endpoint's answers about exits for one device.

    Parameters:
        manifest: of the head bundle.
        key: the operator's public key.

    Raises:
        SecretError: the key is none.
        BundleError: the library that verifies signatures is missing.
    """

    def __init__(self, manifest: Manifest, key: PublicKey) -> None:
        self._manifest = manifest
        self._key = _public_key(key)

    def read(
        self, body: bytes, cut: Cut, version: str, known: Exit | None, now: float
    ) -> FetchedExit:
        """Exit and release of an answer.

        Parameters:
            version: the first digits of the exit version that was asked for.
            known: the exit, where only its release was asked for.
            now: epoch seconds.

        Raises an IsplitError, or ValueError for bad base64.
        """
        raw = _fields(body)
        fetched = known
        if fetched is None:
            fetched = read_signed(_base64(raw, "exit"), self._key)
        fetched.check(self._manifest.network_hash, len(self._manifest.classes), now)
        if fetched.cut != cut or not fetched.version.startswith(version):
            raise ExitError(f"exit: expected {version} at {cut}, got another", reason="cut")
        release = self._release(raw, fetched)
        if now >= release.expires:
            raise ExitError("release: it has expired", reason="expired")
        return FetchedExit(fetched, release)

    def read_last(self, body: bytes, known: Exit) -> ExitRelease:
        """The release of an answer about an exit that has ended, also one that has expired.

        Raises as :meth:`read`.
        """
        return self._release(_fields(body), known)

    def _release(self, raw: Any, of_exit: Exit) -> ExitRelease:
        release = ExitRelease.from_bytes(verify(_base64(raw, "release"), self._key))
        if (release.network_hash, release.cut, release.version) != (
            of_exit.network_hash,
            of_exit.cut,
            of_exit.version,
        ):
            raise ExitError("release: expected one of this exit", reason="cut")
        return release


def _fields(body: bytes) -> Any:
    try:
        return load_json(body, "exit", max_values=64)
    except WireError as error:
        raise ExitError(error.message, reason="malformed") from error


def _base64(raw: Any, name: str) -> bytes:
    value = raw.get(name) if isinstance(raw, dict) else None
    if not isinstance(value, str):
        raise ExitError(f"expected {name!r} in base64", reason="malformed")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ExitError(f"expected {name!r} in base64", reason="malformed") from error


def _public_key(key: PublicKey) -> bytes:
    """The 32 bytes of a public key. Raises SecretError and BundleError."""
    try:
        import cryptography  # noqa: F401  what verifies signatures
    except ImportError as error:
        raise BundleError(
            "exit_key needs the library cryptography: pip install 'isplit-plugin[exits]'"
        ) from error
    if not isinstance(key, bytes):
        return read_public_key(key)
    if len(key) != _KEY_BYTES:
        raise SecretError(f"exit_key: expected a PEM file or {_KEY_BYTES} bytes, got {len(key)}")
    return key
