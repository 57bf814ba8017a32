"""The README says what works: what a device runs is run as printed, and its commands parse."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys.live_server import Live
from toys.pages import ROOT, Reader, blocks, command_lines

from isplit_plugin.cli import COMMANDS, build_parser
from isplit_plugin.device_tokens import new_secret
from isplit_plugin.forwarder import Forwarder, ForwarderSettings

README = (ROOT / "README.md").read_text()


def commands(start: str) -> list[str]:
    lines = command_lines("\n".join(blocks(README, "sh")))
    return [line for line in lines if line.startswith(start)]


@pytest.fixture(scope="module")
def folder(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's folder: a photo, the head bundle, and what `isplit serve` leaves there."""
    made = tmp_path_factory.mktemp("readme")
    pixels = np.random.default_rng(0).integers(0, 255, (80, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(made / "photo.jpg")
    shutil.copy(live.toy.built.bundle, made / "resnet50.head.zip")
    (made / "isplit-run").mkdir()
    new_secret(made / "isplit-run" / "device.secret")
    return made


@pytest.fixture(scope="module")
def forwarder(live: Live, folder: Path) -> Iterator[Forwarder]:
    settings = ForwarderSettings(
        models=("toy",),
        secret_file=folder / "isplit-run" / "device.secret",
        url=live.server.inference_url,
        key_file=live.server.key_path,
        management_url=live.server.management_url,
        port=0,
    )
    with Forwarder(settings) as running:
        yield running


@pytest.fixture(scope="module")
def issued(forwarder: Forwarder, folder: Path) -> str:
    """The token that the README issues, as it issues it."""
    (command,) = commands("isplit device issue")
    run(command, forwarder, folder)
    return (folder / "phone-1.token").read_text().strip()


def run(script: str, forwarder: Forwarder, folder: Path) -> str:
    """Run a script of the README as printed, except for the names of the model and the port."""
    return Reader(folder).run(here(script, forwarder))


def here(text: str, forwarder: Forwarder) -> str:
    text = text.replace("http://127.0.0.1:8443", forwarder.url)
    text = re.sub(r"resnet50(?!\.head)", "toy", text)
    return text.replace("classes/281,282", "classes/0,2")


def test_the_device_commands_run_as_printed(
    live: Live, forwarder: Forwarder, folder: Path, issued: str
) -> None:
    (export,) = commands("export ")
    (predict,) = commands("isplit predict")
    (recommend,) = commands("isplit recommend")
    assert run(f"{export}\n{predict}", forwarder, folder).startswith("photo.jpg: ")
    assert "What to use now" in run(f"{export}\n{recommend}", forwarder, folder)


def test_the_python_example_runs(  # noqa: PLR0917
    live: Live,
    forwarder: Forwarder,
    folder: Path,
    issued: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ISPLIT_URL", forwarder.url)
    monkeypatch.setenv("ISPLIT_DEVICE_TOKEN", issued)
    (example,) = blocks(README, "python")
    exec(here(example, forwarder), {})  # noqa: S102
    assert capsys.readouterr().out.split()[0] in live.toy.manifest.classes


def test_the_curl_examples_answer(forwarder: Forwarder, folder: Path, issued: str) -> None:
    (export,) = commands("export ")
    examples = commands("curl")
    assert len(examples) == 4
    for example in examples:
        printed = run(f"{export}\n{example} -sS --fail-with-body", forwarder, folder)
        assert "error" not in json.loads(printed)


def test_the_commands_parse() -> None:
    found = commands("isplit ")
    assert len(found) >= 3
    for command in found:
        words = shlex.split(command.split("#")[0])[1:]
        build_parser(words[0]).parse_args(words)
    for name in re.findall(r"`isplit (\w+)", README):
        assert name in COMMANDS


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_example_of_a_device_runs(
    live: Live, forwarder: Forwarder, folder: Path, issued: str, tmp_path: Path
) -> None:
    shutil.copy(folder / "photo.jpg", tmp_path)
    (tmp_path / "notes.txt").write_text("no photo")
    words = [sys.executable, str(ROOT / "examples" / "device_app.py")]
    words += [str(tmp_path), "--model", "toy", "--url", forwarder.url]
    words += ["--head", str(live.toy.built.bundle)]
    words += ["--device-token-file", str(folder / "phone-1.token")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=True)
    assert "frame 0: not classified, " in done.stdout  # notes.txt
    assert "frame 1: " in done.stdout
    assert "frames: 1 classified, 1 not, 0 dropped" in done.stdout
    assert "link: " in done.stdout


def test_the_example_of_a_factory_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    from isplit_plugin.network import load_network

    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    loaded = load_network("own_network:build")
    assert loaded.classes == ("cat", "dog", "neither")
    assert loaded.preprocessing.shape == (3, 160, 160)
