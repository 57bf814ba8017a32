"""`isplit predict` against a server of the toy network: whose fault ends the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from toys.client import Server, answering, photo, torchserve_error

from isplit_plugin.cli import main
from isplit_plugin.errors import NetworkMismatchError


@pytest.fixture
def words(server: Server, bundle: Path, tmp_path: Path) -> list[str]:
    """Two photos, and between them a file that is none."""
    for name in ("a.png", "c.png"):
        PIL.Image.fromarray(photo(51, 204, 0)).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no photo")
    photos = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    return [
        "predict",
        *photos,
        "--model",
        "toy",
        "--head",
        str(bundle),
        "--url",
        server.url,
        "--json",
    ]


@pytest.fixture
def exit_key(tmp_path: Path, short_backoff: None) -> list[str]:
    """The option of a public key."""
    file = tmp_path / "exit.key.pub"
    key = Ed25519PrivateKey.generate().public_key()
    file.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return ["--exit-key", str(file)]


def test_a_file_that_is_no_photo_leaves_the_others(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 3
    rows = json.loads(capsys.readouterr().out)
    assert [row.get("label", row.get("code")) for row in rows] == ["green", "not_an_image", "green"]


def test_a_head_of_another_network_ends_the_run(
    words: list[str], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = NetworkMismatchError("the head belongs to network a, this tail to b")
    server.state.always = answering(409, json.dumps(refusal.to_json()).encode())
    assert main(words) == 3
    assert len(server.state.seen) == 1  # not once for each photo
    captured = capsys.readouterr()
    assert json.loads(captured.err)["code"] == "network_mismatch"
    assert captured.out == ""


def only_predictions(handler: Any) -> None:
    """A server whose recommendation endpoint is not registered."""
    if handler.path.startswith("/predictions/isplit"):
        message = "Model not found: isplit"
        torchserve_error(404, "ModelNotFoundException", message)(handler)
    else:
        handler.predict(handler.server.state.seen[-1].body)


def test_without_advice_there_are_no_exits_but_the_photos_are_sent(
    words: list[str], server: Server, exit_key: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    server.state.always = only_predictions
    assert main([*words, *exit_key]) == 3  # for the file that is no photo
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    assert [row.get("label", row.get("code")) for row in rows] == ["green", "not_an_image", "green"]
    assert "warning: no exits" in captured.err
    assert main([*words, *exit_key, "--auto"]) == 3  # the cut has to be the endpoint's
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["code"] == "unknown_model"


def test_without_a_server_the_whole_network_answers_here(
    words: list[str], server: Server, exit_key: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    server.state.always = answering(503)
    words = [word for word in words if not word.endswith("b.png")]
    assert main([*words, *exit_key, "--local-fallback", "--timeout", "20"]) == 0
    captured = capsys.readouterr()
    assert [row["fallback"] for row in json.loads(captured.out)] == [True, True]
    assert "warning: no exits" in captured.err
