"""The operator's key pair, and what it protects."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import ExitError, SecretError
from isplit_plugin.exits import (
    MAX_SIGNED_BYTES,
    new_keys,
    public_key_of,
    read_private_key,
    read_public_key,
    read_signed,
    sign,
    verify,
)

PRIVATE = bytes(range(32))
PUBLIC = public_key_of(PRIVATE)


def test_a_new_pair_signs_and_verifies(tmp_path: Path) -> None:
    private, public = new_keys(tmp_path / "operator.key")
    assert private.stat().st_mode & 0o777 == 0o600
    key = read_private_key(private)
    assert public_key_of(key) == read_public_key(public)
    assert verify(sign(b"an exit", key), read_public_key(public)) == b"an exit"


def test_no_key_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "operator.key"
    new_keys(path)
    before = path.read_bytes()
    with pytest.raises(SecretError, match="cannot be made"):
        new_keys(path)
    assert path.read_bytes() == before
    path.unlink()
    with pytest.raises(SecretError, match=r"operator\.key\.pub: cannot be made"):
        new_keys(path)
    assert not path.exists()


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_private_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    private, _ = new_keys(tmp_path / "operator.key")
    private.chmod(mode)
    with pytest.raises(SecretError, match=f"expected mode 0600, got {mode:04o}"):
        read_private_key(private)


def test_files_without_such_a_key_are_refused(tmp_path: Path) -> None:
    private, public = new_keys(tmp_path / "operator.key")
    other = tmp_path / "other"
    other.touch(0o600)
    for content in (b"", b"x" * 5000, b"-----BEGIN PRIVATE KEY-----\nAAAA\n", public.read_bytes()):
        other.write_bytes(content)
        with pytest.raises(SecretError, match="key file"):
            read_private_key(other)
    other.write_bytes(private.read_bytes())
    with pytest.raises(SecretError, match="Ed25519 public key"):
        read_public_key(other)
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(SecretError, match="key file"):
            read_private_key(path)
    for key in (b"", b"x" * 33):
        with pytest.raises(SecretError, match="expected 32 bytes"):
            sign(b"an exit", key)


@given(st.binary(min_size=1, max_size=200), st.data())
def test_whatever_is_changed_is_noticed(content: bytes, data: st.DataObject) -> None:
    signed = sign(content, PRIVATE)
    at = data.draw(st.integers(0, len(signed) - 1))
    changed = signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :]
    for hostile in (changed, signed[:at], signed + b"x", content):
        with pytest.raises(ExitError) as caught:
            verify(hostile, PUBLIC)
        assert caught.value.details["reason"] in {"malformed", "forged"}


def test_another_operators_signature_is_forged() -> None:
    signed = sign(b"an exit", bytes(32))
    with pytest.raises(ExitError, match="not signed with this operator's key") as caught:
        verify(signed, PUBLIC)
    assert caught.value.details == {"reason": "forged"}


def test_what_is_too_large_is_not_even_verified() -> None:
    signed = sign(bytes(MAX_SIGNED_BYTES), PRIVATE)
    with pytest.raises(ExitError) as caught:
        verify(signed, PUBLIC)
    assert caught.value.details == {"reason": "malformed"}


def test_signed_bytes_that_are_no_exit_are_refused() -> None:
    with pytest.raises(ExitError, match="exit: expected a safetensors file"):
        read_signed(sign(b"no exit", PRIVATE), PUBLIC)
