from __future__ import annotations

import json
from pathlib import Path

import pytest

from isplit_plugin.cli import main
from isplit_plugin.exits import read_private_key, read_public_key, sign, verify


def test_keys_are_made_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "operator.key"
    assert main(["keys", "make", str(path)]) == 0
    made = capsys.readouterr().out
    assert main(["keys", "show", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["public_key"] in made
    public = bytes.fromhex(shown["public_key"])
    assert public == read_public_key(shown["public_key_file"])
    assert verify(sign(b"an exit", read_private_key(path)), public) == b"an exit"


def test_bad_key_files_are_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, other = tmp_path / "operator.key", tmp_path / "other.key"
    assert main(["keys", "show", str(path)]) == 3
    assert main(["keys", "make", str(path)]) == 0
    assert main(["keys", "make", str(path)]) == 3
    assert main(["keys", "make", str(other)]) == 0
    other.with_name("other.key.pub").replace(path.with_name("operator.key.pub"))
    assert main(["keys", "show", str(path)]) == 3
    assert "expected the public key of" in capsys.readouterr().err
    path.chmod(0o644)
    assert main(["keys", "show", str(path), "--json"]) == 3
    error = json.loads(capsys.readouterr().err)
    assert error["code"] == "bad_secret"
    assert "expected mode 0600, got 0644" in error["error"]
