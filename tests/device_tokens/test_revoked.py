"""Revoked ids: what is revoked, when readers learn of it, and lists that cannot be used."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from pathlib import Path

import pytest

from isplit_plugin.cli import main
from isplit_plugin.device_tokens import (
    RevokedDevices,
    TokenVerifier,
    issue,
    new_secret,
    read_secret,
    revoke,
    revoked_path,
)
from isplit_plugin.errors import SecretError, TokenError


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    return new_secret(tmp_path / "device.secret")


def refusal(verifier: TokenVerifier, token: str, now: float | None = None) -> str:
    """Why a token is refused; empty if it holds."""
    try:
        verifier.verify(token, clock=time.time if now is None else lambda: now)
    except TokenError as error:
        return str(error.details["reason"])
    return ""


def test_a_running_verifier_learns_of_a_revocation_at_once(secret_file: Path) -> None:
    verifier = TokenVerifier.from_file(secret_file)
    secret = read_secret(secret_file)
    lost, other = (issue(secret, name, days=1) for name in ("lost", "other"))
    assert not refusal(verifier, lost)
    revoke(revoked_path(secret_file), ["lost"])
    assert refusal(verifier, lost) == "revoked"
    assert refusal(verifier, other) == ""
    assert refusal(TokenVerifier.from_file(secret_file), lost) == "revoked"
    assert revoked_path(secret_file).stat().st_mode & 0o777 == 0o600


def test_a_token_issued_later_is_valid_again(secret_file: Path) -> None:
    secret, path = read_secret(secret_file), revoked_path(secret_file)
    revoke(path, ["cam"], clock=lambda: 1_000.0004)
    verifier = TokenVerifier.from_file(secret_file)
    for issued, valid in ((999.9, False), (1_000.0, False), (1_000.001, False), (1_000.002, True)):
        token = issue(secret, "cam", days=36, clock=lambda at=issued: at)  # type: ignore[misc]
        assert refusal(verifier, token, 2_000.0) == ("" if valid else "revoked"), issued
    revoke(path, ["cam"], clock=lambda: 1_001.0)
    again = issue(secret, "cam", days=1, clock=lambda: 1_002.0)
    assert refusal(verifier, again, 1_003.0) == ""


def test_lists_edited_by_hand(secret_file: Path) -> None:
    path = revoked_path(secret_file)
    path.write_text("# lost in May\n\ncam-1\ncam-2 50\ncam-2 40")
    path.chmod(0o600)
    devices = RevokedDevices(path)
    assert devices.times() == {"cam-1": math.inf, "cam-2": 50.0}
    revoke(path, ["cam-3"], clock=lambda: 60.0)
    assert devices.times()["cam-3"] == 60.0
    path.unlink()
    assert devices.times() == {}


@pytest.mark.parametrize("text", ["cam x\n", "cam 1 2\n", "cam nan\n", "\xff\xfe cam 5 5\n"])
def test_a_list_that_cannot_be_read(
    secret_file: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = revoked_path(secret_file)
    revoke(path, ["cam"], clock=lambda: 5.0)
    devices = RevokedDevices(path)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SecretError, match="line 1: expected an id"):
        RevokedDevices(path)
    with caplog.at_level(logging.ERROR):
        assert devices.times() == devices.times() == {"cam": 5.0}
    assert len(caplog.records) == 1
    path.write_text("other 7\n")
    assert devices.times() == {"other": 7.0}


def test_a_list_that_others_may_write(secret_file: Path) -> None:
    path = revoked_path(secret_file)
    revoke(path, ["cam"])
    path.chmod(0o620)
    with pytest.raises(SecretError, match="0620"):
        TokenVerifier.from_file(secret_file)
    path.unlink()
    path.mkdir()
    with pytest.raises(SecretError):
        TokenVerifier.from_file(secret_file)
    with pytest.raises(SecretError, match="cannot be written"):
        revoke(path, ["cam"])


def test_two_commands_at_once_lose_nothing(secret_file: Path) -> None:
    path = revoked_path(secret_file)
    threads = [
        threading.Thread(target=revoke, args=(path, [f"{n}-{i}" for i in range(20)]))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(RevokedDevices(path).times()) == 160


def test_an_id_that_cannot_be_one_writes_nothing(secret_file: Path) -> None:
    with pytest.raises(TokenError, match="expected 1 to 64"):
        revoke(revoked_path(secret_file), ["good", "bad id"])
    assert not revoked_path(secret_file).exists()


def test_the_commands(
    secret_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = ["--secret-file", str(secret_file)]
    out = tmp_path / "cam.token"
    assert main(["device", "issue", "--id", "cam", "--days", "1", "-o", str(out), *secret]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.stat().st_mode & 0o777 == 0o600
    token = out.read_text().strip()
    assert main(["device", "show", token, *secret]) == 0
    assert main(["device", "revoke", "cam", "cam-2", *secret]) == 0
    assert "revoked: cam, cam-2" in capsys.readouterr().out
    assert main(["device", "show", token, *secret]) == 3
    assert "revoked; the operator revoked device cam at" in capsys.readouterr().err
    assert main(["device", "revoked", "--json", *secret]) == 0
    assert set(json.loads(capsys.readouterr().out)["revoked"]) == {"cam", "cam-2"}
    assert main(["device", "revoked", *secret]) == 0
    assert "cam-2  since 2" in capsys.readouterr().out
    assert main(["device", "revoke", "cam", "--secret-file", str(tmp_path / "none")]) == 3
    assert "cannot be read" in capsys.readouterr().err
    assert os.listdir(tmp_path).count("none.revoked") == 0
    assert main(["device", "issue", "--id", "cam", "--days", "1", "-o", str(out), *secret]) == 0
    capsys.readouterr()
    assert main(["device", "show", out.read_text(), *secret]) == 0
