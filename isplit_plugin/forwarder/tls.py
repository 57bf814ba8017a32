"""The certificate of a forwarder, which is loaded again when its file changes."""

from __future__ import annotations

import logging
import os
import ssl
import stat
from pathlib import Path

from ..errors import ArtifactError, IsplitError, SecretError
from .settings import ForwarderSettings

_LOGGER = logging.getLogger(__name__)


class Certificate:
    """A certificate and its private key.

    Attributes:
        context: for the listening socket.

    Raises:
        SecretError: the private key cannot be read, or others than its owner may read it.
        ArtifactError: the certificate cannot be read, or does not belong to the key.
    """

    def __init__(self, certificate: Path, private_key: Path) -> None:
        self._certificate = certificate
        self._private_key = private_key
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._version = self._version_now()
        self._load(self.context)

    def load_again(self) -> None:
        """Load the files again if they changed; new connections get the new certificate.

        Files that cannot be used are reported in the log, and the old certificate stays.
        """
        version = self._version_now()
        if version == self._version:
            return
        self._version = version
        try:
            self._load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
            self._load(self.context)
        except IsplitError as error:
            _LOGGER.error("the old certificate stays in use: %s", error.message)
        else:
            _LOGGER.info("loaded %s again", self._certificate)

    def _load(self, context: ssl.SSLContext) -> None:
        _check_private(self._private_key)
        try:
            context.load_cert_chain(self._certificate, self._private_key, password=_no_password)
        except ssl.SSLError as error:
            raise ArtifactError(
                f"{self._certificate}, {self._private_key}: expected a certificate and its private "
                f"key as PEM, without a password ({error.reason or error})"
            ) from error
        except OSError as error:
            reason = error.strerror or error
            raise ArtifactError(
                f"{self._certificate}: expected a certificate as PEM ({reason})"
            ) from error

    def _version_now(self) -> tuple[int, ...]:
        try:
            files = (self._certificate.stat(), self._private_key.stat())
        except OSError:
            return ()
        return tuple(number for file in files for number in (file.st_ino, file.st_mtime_ns))


def certificate_of(settings: ForwarderSettings) -> Certificate | None:
    """The certificate that the settings name. Raises as :class:`Certificate`."""
    if settings.certificate is None or settings.private_key is None:
        return None
    return Certificate(settings.certificate, settings.private_key)


def check_certificate(settings: ForwarderSettings) -> None:
    """Load the certificate that the settings name, if they name one.

    Raises:
        SecretError: the private key cannot be read, or others than its owner may read it.
        ArtifactError: the certificate cannot be read, or does not belong to the key.
    """
    certificate_of(settings)


def _check_private(path: Path) -> None:
    """Raise SecretError if this is no file that only its owner may read."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
    except OSError as error:
        reason = error.strerror or error
        raise SecretError(f"private key {path}: cannot be read ({reason})") from error
    if not stat.S_ISREG(status.st_mode):
        raise SecretError(f"private key {path}: expected a file")
    if os.name == "posix" and status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise SecretError(
            f"private key {path}: expected mode 0600, got {mode:04o}: chmod 600 {path}"
        )


def _no_password() -> str:
    """OpenSSL would ask on the terminal."""
    return ""
