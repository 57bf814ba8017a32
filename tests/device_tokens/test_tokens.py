"""Device tokens: compared with a signature made by hand; forged, expired and malformed ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.cli import main
from isplit_plugin.device_tokens import (
    hashed,
    issue,
    new_secret,
    peek,
    read_secret,
    seal,
    sign,
    unseal,
    verify,
)
from isplit_plugin.errors import SecretError, TokenError

SECRET = bytes(range(32))


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_a_token_made_by_hand() -> None:
    body = b'["camera-7","door",0.125,86400]'
    signature = hmac.new(SECRET, b"isplit1\0" + body, hashlib.sha256).digest()
    by_hand = f"isplit1.{_b64(body)}.{_b64(signature)}"
    assert issue(SECRET, "camera-7", days=1, group="door", clock=lambda: 0.1251) == by_hand
    device = verify(SECRET, by_hand, clock=lambda: 86_399.0)
    assert (device.id, device.group) == ("camera-7", "door")
    assert (device.issued, device.expires) == (0.125, 86_400)
    assert peek(by_hand) == ("camera-7", "door", 0.125, 86_400)
    expected = hmac.new(SECRET, b"isplit device id\0camera-7", hashlib.sha256).hexdigest()[:32]
    assert device.hashed == hashed(SECRET, "camera-7") == expected


@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}", fullmatch=True),
    st.none() | st.sampled_from(["door", "Köln", "a.b c", "\U00020000" * 64]),
)
def test_round_trip_and_shape(device_id: str, group: str | None) -> None:
    token = issue(SECRET, device_id, days=1, group=group)
    assert len(token) <= 512
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
    device = verify(SECRET, token)
    assert (device.id, device.group) == (device_id, group) == peek(token)[:2]
    assert device_id not in device.hashed or len(device_id) < 4


def _reason(token: object, secret: bytes = SECRET, now: float = 0.0) -> str:
    with pytest.raises(TokenError) as caught:
        verify(secret, token, clock=lambda: now)
    return str(caught.value.details["reason"])


def test_tokens_that_are_not_valid() -> None:
    token = issue(SECRET, "a", days=1, clock=lambda: 0.0)
    version, body, signature = token.split(".")
    assert _reason(token, now=86_400.0) == "expired"
    assert _reason(token, secret=b"x" * 32) == "forged"
    other = _b64(json.dumps(["b", None, 10**9]).encode())
    assert _reason(f"{version}.{other}.{signature}") == "forged"
    assert _reason(f"{version}.{body}.") == "forged"
    # The same secret and a valid payload, but signed for another use.
    assert (
        _reason(f"{version}.{seal(SECRET, 'isplit probe ticket', ['b', None, 10**9])}") == "forged"
    )
    for bad in ("", "x", f"isplit2.{body}.{signature}", "é" * 10, None, 7, "a" * 10_000):
        assert _reason(bad) == "malformed"


@given(st.text(max_size=80) | st.binary(max_size=40).map(lambda b: f"isplit1.{_b64(b)}.{_b64(b)}"))
def test_any_text_raises_only_token_errors(text: str) -> None:
    for call in (lambda: verify(SECRET, text), lambda: peek(text)):
        with pytest.raises(TokenError):
            call()


@given(st.integers(0, 200), st.integers(1, 255))
def test_no_changed_byte_is_accepted(place: int, flip: int) -> None:
    body, signature = b'["a",null,99999999999]', sign(SECRET, "isplit1", b'["a",null,99999999999]')
    raw = bytearray(body + signature)
    raw[place % len(raw)] ^= flip
    assert (
        _reason(f"isplit1.{_b64(bytes(raw[: len(body)]))}.{_b64(bytes(raw[len(body) :]))}")
        == "forged"
    )


@pytest.mark.parametrize(
    ("device_id", "days", "group"),
    [
        ("", 1, None), ("a b", 1, None), ("a" * 65, 1, None), ("é", 1, None),
        ("a", 0, None), ("a", float("nan"), None), ("a", 1e9, None),
        ("a", 1, ""), ("a", 1, "x\n"), ("a", 1, "g" * 65),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_issued(device_id: str, days: float, group: str | None) -> None:
    with pytest.raises(TokenError):
        issue(SECRET, device_id, days=days, group=group)


def test_sealed_values() -> None:
    sealed = seal(SECRET, "use", {"a": [1.5, "ä"]})
    assert unseal(SECRET, "use", sealed) == {"a": [1.5, "ä"]}
    for bad in ("other use", "us"):
        with pytest.raises(ValueError, match="forged"):
            unseal(SECRET, bad, sealed)
    with pytest.raises(ValueError, match="malformed"):
        unseal(SECRET, "use", "no dot")


def test_secret_files(tmp_path: Path) -> None:
    path = new_secret(tmp_path / "s")
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(read_secret(path).decode())) == 32
    assert read_secret(new_secret(tmp_path / "t")) != read_secret(path)
    with pytest.raises(SecretError, match="cannot be made"):
        new_secret(path)
    path.chmod(0o640)
    with pytest.raises(SecretError, match="0640"):
        read_secret(path)
    short = tmp_path / "short"
    short.write_bytes(b"x" * 15 + b"\n" * 40)
    short.chmod(0o600)
    for bad in (short, tmp_path, tmp_path / "missing", Path("/dev/null")):
        with pytest.raises(SecretError):
            read_secret(bad)


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ISPLIT_SECRET_FILE", raising=False)
    secret = str(tmp_path / "secret")
    assert main(["device", "secret", "--secret-file", secret]) == 0
    assert capsys.readouterr().out == f"{secret}\n"
    command = ["device", "issue", "--id", "cam", "--days", "2", "--group", "door"]
    assert main([*command, "--secret-file", secret]) == 0
    token = capsys.readouterr().out.strip()
    assert verify(read_secret(secret), token).group == "door"
    assert main(["device", "show", token, "--json", "--secret-file", secret]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["id"], shown["verified"], shown["hashed"]) == (
        "cam",
        True,
        hashed(read_secret(secret), "cam"),
    )
    assert main(["device", "show", token]) == 0
    assert "not verified" in capsys.readouterr().out
    os.environ["ISPLIT_SECRET_FILE"] = secret
    try:
        assert main(["device", "show", token[:-3] + "AAA"]) == 3
        assert "forged" in capsys.readouterr().err
    finally:
        del os.environ["ISPLIT_SECRET_FILE"]
    assert main(["device", "issue", "--id", "cam", "--days", "2"]) == 3
    assert "--secret-file" in capsys.readouterr().err
