"""Tokens from TorchServe's key file."""

from __future__ import annotations

from pathlib import Path

import pytest

from isplit_plugin.client import read_key
from isplit_plugin.errors import AuthenticationError


def test_a_key_file(tmp_path: Path) -> None:
    path = tmp_path / "key_file.json"
    path.write_text('{"inference": {"key": "abc"}}')
    assert read_key(path, "inference") == "abc"
    with pytest.raises(AuthenticationError, match="management"):
        read_key(path, "management")
    path.write_text("[]")
    with pytest.raises(AuthenticationError, match="key_file"):
        read_key(path, "inference")
