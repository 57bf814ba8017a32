"""Commands that talk to a forwarder need the device token alone."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest
from toys.client import Server, answering, photo
from toys.forwarder import write_key

from isplit_plugin.cli import main
from isplit_plugin.device_tokens import issue, new_secret, read_secret
from isplit_plugin.forwarder import Forwarder, ForwarderSettings


@pytest.fixture
def url(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a forwarder that is stopped with the server."""
    for variable in ("ISPLIT_URL", "ISPLIT_TOKEN", "ISPLIT_DEVICE_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    server.state.token = "torchserve"
    write_key(tmp_path / "key_file.json", "torchserve")
    secret_file = new_secret(tmp_path / "device.secret")
    token = issue(read_secret(secret_file), "phone-1", days=1)
    (tmp_path / "phone-1.token").write_text(f"{token}\n")
    return server.url


@pytest.fixture
def forwarded(url: str, tmp_path: Path) -> Forwarder:
    return Forwarder(
        ForwarderSettings(
            models=("toy",),
            secret_file=tmp_path / "device.secret",
            url=url,
            key_file=tmp_path / "key_file.json",
            port=0,
        )
    )


def test_predict_recommend_and_label(  # noqa: PLR0917
    server: Server,
    forwarded: Forwarder,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    PIL.Image.fromarray(photo(200, 0, 0)).save(tmp_path / "photo.png")
    token_file = ["--device-token-file", str(tmp_path / "phone-1.token")]
    with forwarded:
        monkeypatch.setenv("ISPLIT_URL", forwarded.url)
        predict = ["predict", str(tmp_path / "photo.png"), "--model", "toy", "--head", str(bundle)]
        assert main([*predict, "--auto", "--json", *token_file]) == 0
        assert json.loads(capsys.readouterr().out)[0]["label"] == "red"
        assert main(["recommend", "toy", "--json", *token_file]) == 0
        assert json.loads(capsys.readouterr().out)["model"] == "toy"
        monkeypatch.setenv("ISPLIT_DEVICE_TOKEN", (tmp_path / "phone-1.token").read_text().strip())
        assert main(["recommend", "toy"]) == 0
        (tmp_path / "labels.csv").write_text("r1,0\n")
        (tmp_path / "labels.secret").write_text("s" * 32)
        (tmp_path / "labels.secret").chmod(0o600)
        label = ["label", str(tmp_path / "labels.csv")]
        label += ["--secret-file", str(tmp_path / "labels.secret")]
        server.state.always = answering(200, b'{"labels": [{"request_id": "r1", "correct": true}]}')
        assert main(label) == 0
        assert "1 labels taken" in capsys.readouterr().out
        monkeypatch.delenv("ISPLIT_DEVICE_TOKEN")
        assert main(["recommend", "toy"]) == 4
        assert "Authorization: Bearer <device token>" in capsys.readouterr().err
        assert main(["recommend", "toy", "--device-token-file", str(tmp_path / "none")]) == 4
        assert "expected a device token of isplit device issue" in capsys.readouterr().err
