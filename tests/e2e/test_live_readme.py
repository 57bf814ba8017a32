"""The README says what works: its Python runs, its curl commands answer, its commands parse."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys.live_server import Live

from isplit_plugin.cli import COMMANDS, build_parser

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands(start: str) -> list[str]:
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith(start)]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (80, 90, 3), dtype=np.uint8)
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).save(path)
    return path


def here(text: str, live: Live, photo: Path) -> str:
    """The README's example with this server's addresses and names."""
    text = text.replace("http://127.0.0.1:8080", live.server.inference_url).replace(
        "photo.jpg", str(photo)
    )
    text = text.replace("resnet50.head.zip", str(live.toy.built.bundle)).replace("resnet50", "toy")
    text = text.replace("key_file.json", str(live.server.key_path))
    return text.replace("classes/281,282", "classes/0,2").replace("$TOKEN", live.server.token())


def test_the_python_example_runs(
    live: Live, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = blocks("python")
    exec(here(example, live, photo), {})  # noqa: S102
    assert capsys.readouterr().out.split()[0] in live.toy.manifest.classes


def test_the_curl_examples_answer(live: Live, photo: Path) -> None:
    found = commands("curl")
    assert len(found) == 4
    for command in found:
        words = shlex.split(here(command, live, photo))
        done = subprocess.run(
            [*words, "-sS", "--fail-with-body"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        assert '"error"' not in done.stdout


def test_the_commands_parse() -> None:
    found = commands("isplit ")
    assert len(found) >= 3
    for command in found:
        words = shlex.split(command.split("#")[0])[1:]
        build_parser(words[0]).parse_args(words)
    for name in re.findall(r"`isplit (\w+)", README):
        assert name in COMMANDS


def test_every_link_leads_somewhere() -> None:
    root = Path(__file__).parents[2]
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / target).exists(), target


def test_the_example_of_a_device_runs(live: Live, photo: Path) -> None:
    root = Path(__file__).parents[2]
    (photo.parent / "notes.txt").write_text("no photo")
    words = [
        sys.executable,
        str(root / "examples" / "device_app.py"),
        str(photo.parent),
        "--model",
        "toy",
    ]
    words += ["--url", live.server.inference_url, "--head", str(live.toy.built.bundle)]
    words += ["--key-file", str(live.server.key_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert "cutting at" in done.stdout
    assert "photo.jpg: " in done.stdout
    assert "notes.txt: " in done.stdout


def test_the_example_of_a_factory_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    from isplit_plugin.network import load_network

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    loaded = load_network("own_network:build")
    assert loaded.classes == ("cat", "dog", "neither")
    assert loaded.preprocessing.shape == (3, 160, 160)
