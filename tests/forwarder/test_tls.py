"""TLS: what it needs, what is refused, and certificates that are renewed."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import ssl
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from toys.client import Server, photo
from toys.forwarder import Forward, Issue

from isplit_plugin.client import SplitClient
from isplit_plugin.errors import ArtifactError, SecretError, ServingError
from isplit_plugin.forwarder import Forwarder, ForwarderSettings, Limits, check_certificate
from isplit_plugin.forwarder.tls import Certificate

HERE = Path(__file__).parent


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A certificate of localhost, signed by itself."""
    certificate = Path(shutil.copy(HERE / "localhost.pem", tmp_path / "cert.pem"))
    private_key = Path(shutil.copy(HERE / "localhost.key.pem", tmp_path / "key.pem"))
    private_key.chmod(0o600)
    return {"certificate": certificate, "private_key": private_key}


def test_a_client_over_tls(  # noqa: PLR0917
    server: Server,
    forward: Forward,
    issued: Issue,
    files: dict[str, Path],
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forwarder = forward(**files)
    assert forwarder.url.startswith("https://127.0.0.1:")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(files["certificate"]))
    with SplitClient(forwarder.url, model="toy", head=bundle, device_token=issued()) as client:
        assert client.predict(photo(200, 0, 0)).label == "red"
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{forwarder.url}/ping", timeout=60)


def test_old_protocols_and_plain_http_are_refused(
    server: Server, forward: Forward, files: dict[str, Path]
) -> None:
    forwarder = forward(**files)
    address = (urlsplit(forwarder.url).hostname or "", urlsplit(forwarder.url).port or 0)
    context = ssl.create_default_context(cafile=str(files["certificate"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(address, timeout=60) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(raw, server_hostname="localhost")
    with pytest.raises(requests.ConnectionError):
        requests.get(forwarder.url.replace("https", "http") + "/ping", timeout=60)


def test_private_keys_that_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    key = files["private_key"]
    key.chmod(0o644)
    with pytest.raises(SecretError, match=r"expected mode 0600, got 0644: chmod 600"):
        Certificate(**files)
    key.chmod(0o600)
    with pytest.raises(SecretError, match="cannot be read"):
        Certificate(files["certificate"], tmp_path / "none.pem")
    with pytest.raises(SecretError):
        Certificate(files["certificate"], tmp_path)
    with pytest.raises(ArtifactError, match="expected a certificate as PEM"):
        Certificate(tmp_path / "none.pem", key)
    key.write_text("no key")
    with pytest.raises(ArtifactError, match="expected a certificate and its private key as PEM"):
        Certificate(**files)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_key_that_cannot_be_read(files: dict[str, Path]) -> None:
    files["private_key"].chmod(0)
    with pytest.raises(SecretError, match="cannot be read"):
        Certificate(**files)


def test_a_certificate_is_loaded_again(
    files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    loaded = Certificate(**files)
    text = files["private_key"].read_text()
    with caplog.at_level(logging.INFO):
        loaded.load_again()
        assert not caplog.records
        files["private_key"].write_text("half")
        loaded.load_again()
        assert "the old certificate stays in use" in caplog.records[-1].getMessage()
        files["private_key"].write_text(text)
        loaded.load_again()
        assert "loaded" in caplog.records[-1].getMessage()
    assert len(caplog.records) == 2


def test_tokens_never_travel_in_the_clear_by_accident(
    files: dict[str, Path], secret_file: Path
) -> None:
    def settings(**more: object) -> ForwarderSettings:
        return ForwarderSettings(models=("toy",), secret_file=secret_file, **more)  # type: ignore[arg-type]

    with pytest.raises(ServingError, match=r"0\.0\.0\.0: expected a certificate"):
        settings(host="0.0.0.0")
    with pytest.raises(ServingError, match="expected a certificate and its private key, got one"):
        settings(certificate=files["certificate"])
    assert settings(host="0.0.0.0", plain=True)
    assert settings(host="::1")
    assert settings(host="localhost")
    check_certificate(settings(host="0.0.0.0", **files))


@pytest.mark.parametrize(
    "changes",
    [
        {"models": ()},
        {"url": "ftp://x"},
        {"url": "http://user@x:80"},
        {"url": "http://x:80/path"},
        {"management_url": "8081"},
    ],
)
def test_settings_that_are_refused(secret_file: Path, changes: dict[str, object]) -> None:
    usual: dict[str, object] = {"models": ("toy",), "secret_file": secret_file}
    with pytest.raises(ServingError, match="expected"):
        ForwarderSettings(**{**usual, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"rate": 0}, {"max_body": -1}, {"burst": 0.5}])
def test_limits_that_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ServingError, match="expected"):
        Limits(**changes)  # type: ignore[arg-type]


def test_a_secret_that_others_may_read(secret_file: Path) -> None:
    secret_file.chmod(0o644)
    with pytest.raises(SecretError, match="0644"):
        Forwarder(ForwarderSettings(models=("toy",), secret_file=secret_file))
