"""`isplit predict` against a server of the toy network: whose fault ends the run."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest
from toys.client import Server, answering, photo

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
