"""The operator's key pair, and exits signed with it: Ed25519 (RFC 8032), by ``cryptography``.

Whoever holds the private key decides what devices answer by themselves. The public key ships with
the app. A signed exit is a magic number, the signature, then the exit's bytes, which are read only
after the signature was verified. The library is imported where it is used; without it, signing and
verifying raise ModuleNotFoundError.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ExitError, SecretError
from ..files import write_atomically
from ..private_files import read_private
from .exit import MAX_EXIT_BYTES, Exit

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

MAX_SIGNED_BYTES: Final = MAX_EXIT_BYTES + 128
"""The most bytes of a signed exit."""

_MAGIC: Final = b"isplit-exit-1\n"
_SIGNATURE: Final = 64
_MAX_KEY_FILE: Final = 4096


def new_keys(path: str | Path) -> tuple[Path, Path]:
    """Write a new key pair as PEM: the private key to ``path`` (mode 0600), the public to its name
    with ``.pub`` behind.

    Returns both paths. Raises SecretError if a file exists or cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private_path, public_path = Path(path), public_key_path(path)
    where = private_path
    try:
        write_atomically(private_path, _private_pem(key), mode=0o600, overwrite=False)
        where = public_path
        write_atomically(public_path, _public_pem(key.public_key()), overwrite=False)
    except OSError as error:
        if where == public_path:
            private_path.unlink()
        reason = error.strerror or error
        raise SecretError(f"key file {where}: cannot be made ({reason})") from error
    return private_path, public_path


def public_key_path(private_path: str | Path) -> Path:
    """Where :func:`new_keys` puts the public key."""
    return Path(f"{private_path}.pub")


def read_private_key(path: str | Path) -> bytes:
    """The private key in a PEM file, as 32 bytes.

    Raises SecretError if this is no such file, or if others than its owner may read it.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = read_private(path, "key file", _MAX_KEY_FILE)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except Exception as error:  # the library raises several types
        raise _no_key(path, "private") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "private")
    return key.private_bytes_raw()


def read_public_key(path: str | Path) -> bytes:
    """The public key in a PEM file, as 32 bytes. Raises SecretError if this is no such file."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    pem = read_private(path, "key file", _MAX_KEY_FILE, public=True)
    try:
        key = serialization.load_pem_public_key(pem)
    except Exception as error:  # the library raises several types
        raise _no_key(path, "public") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, "public")
    return key.public_bytes_raw()


def public_key_of(private_key: bytes) -> bytes:
    """The public key (32 bytes) of a private key. Raises SecretError for what is none."""
    return _private_key(private_key).public_key().public_bytes_raw()


def sign(exit_bytes: bytes, private_key: bytes) -> bytes:
    """The exit's bytes, signed. Raises SecretError for what is no private key (32 bytes)."""
    return _MAGIC + _private_key(private_key).sign(_MAGIC + exit_bytes) + exit_bytes


def verify(signed: bytes, public_key: bytes) -> bytes:
    """The exit's bytes in a signed exit, which is read no further before it is verified.

    Raises ExitError with ``details["reason"]`` "malformed" or "forged", and SecretError for what is
    no public key (32 bytes).
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    start = len(_MAGIC) + _SIGNATURE
    if not signed.startswith(_MAGIC) or not start < len(signed) <= MAX_SIGNED_BYTES:
        raise ExitError(
            f"signed exit: expected {start} to {MAX_SIGNED_BYTES} bytes that begin with "
            f"{_MAGIC!r}, got {len(signed)}",
            reason="malformed",
        )
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
    except ValueError as error:
        raise SecretError("public key: expected 32 bytes") from error
    exit_bytes = signed[start:]
    try:
        key.verify(signed[len(_MAGIC) : start], _MAGIC + exit_bytes)
    except InvalidSignature:
        raise ExitError(
            "signed exit: it was not signed with this operator's key", reason="forged"
        ) from None
    return exit_bytes


def unsigned(signed: bytes) -> bytes:
    """The bytes in a signed exit, for a reader that trusts where they come from: the server's own.

    Raises ExitError for what does not begin as one.
    """
    if not signed.startswith(_MAGIC):
        raise ExitError(f"signed exit: expected it to begin with {_MAGIC!r}", reason="malformed")
    return signed[len(_MAGIC) + _SIGNATURE :]


def read_signed(signed: bytes, public_key: bytes) -> Exit:
    """The exit in a signed exit. Raises ExitError and SecretError, as :func:`verify`."""
    return Exit.from_bytes(verify(signed, public_key))


def _private_key(private_key: bytes) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        return Ed25519PrivateKey.from_private_bytes(private_key)
    except ValueError as error:
        raise SecretError("private key: expected 32 bytes") from error


def _no_key(path: str | Path, kind: str) -> SecretError:
    return SecretError(f"key file {path}: expected an Ed25519 {kind} key as PEM")


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _public_pem(key: Ed25519PublicKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
