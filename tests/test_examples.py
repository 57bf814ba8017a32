"""The example of a device goes on whatever becomes of its version on the server."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import PIL.Image
import pytest
from toys.client import (
    BUSY,
    Fault,
    Server,
    answering,
    bundle_files,
    make_manifest,
    photo,
    recommendation,
    write_zip,
)

from isplit_plugin.errors import IsplitError, StoreError, UnknownVersionError
from isplit_plugin.schema import Cut

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def app() -> ModuleType:
    spec = importlib.util.spec_from_file_location("device_app", EXAMPLES / "device_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Run:
    """The app on two photos."""

    def __init__(  # noqa: PLR0917
        self,
        app: ModuleType,
        server: Server,
        bundle: Path,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.app, self.server, self.bundle, self.folder = app, server, bundle, folder
        self.monkeypatch, self.capsys = monkeypatch, capsys
        (folder / "phone.token").write_text("token\n")
        (folder / "photos").mkdir()
        for number in range(2):
            image = PIL.Image.fromarray(photo(51, 204, 0))
            image.save(folder / "photos" / f"{number}.png")

    def __call__(self, *options: str) -> list[str]:
        words = ["device_app.py", str(self.folder / "photos"), "--url", self.server.url]
        words += ["--model", "toy", "--head", str(self.bundle)]
        words += ["--token-file", str(self.folder / "phone.token"), *options]
        self.monkeypatch.setattr(sys, "argv", words)
        self.app.main()
        return self.capsys.readouterr().out.splitlines()


@pytest.fixture
def run(  # noqa: PLR0917
    app: ModuleType,
    server: Server,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    return Run(app, server, bundle, tmp_path, monkeypatch, capsys)


def refusing(error: IsplitError) -> Fault:
    return answering(error.status, json.dumps(error.to_json()).encode())


def test_it_follows_the_recommendation(run: Run) -> None:
    advice, *photos = run()
    assert advice == "cutting at pool:uint8: it is the smallest"
    assert [line.split(" (")[0] for line in photos] == ["0.png: green", "1.png: green"]
    assert all("cut at pool:uint8" in line for line in photos)


@pytest.mark.parametrize(
    "faults",
    [
        # asked again without the version
        [refusing(UnknownVersionError("the store forgot it"))] * 2,
        [refusing(StoreError("the store is away"))],
        [answering(500, b"no JSON")],
        [answering(200, b"[]")],
    ],
)
def test_without_a_recommendation_the_cut_stays(run: Run, faults: list[Fault]) -> None:
    run.server.state.faults = list(faults)
    advice, *photos = run("--cut", "double:fp16")
    assert advice.startswith("still cutting at double:fp16: ")
    assert all("green" in line and "cut at double:fp16" in line for line in photos)


def test_advice_for_another_network_or_a_missing_head_is_not_followed(
    run: Run, tmp_path: Path
) -> None:
    run.server.state.advice = recommendation(network_hash="beef")
    assert run()[0].startswith("still cutting at double:fp32: the head belongs to network feed")
    run.server.state.advice = recommendation(Cut("output", "none"))
    run.bundle = write_zip(tmp_path / "small.zip", bundle_files(heads=("double", "pool")))
    advice, *photos = run()
    assert "there is no head for it here" in advice
    assert all("green" in line for line in photos)


def test_a_server_with_another_network_leaves_the_whole_network_here(run: Run) -> None:
    run.server.state.versions = ("2.0",)
    run.server.state.manifest = make_manifest(network_hash="beef")
    advice, mismatch, *photos = run()
    assert advice.startswith("cutting at")
    assert mismatch.startswith("this device needs a new head bundle: ")
    assert [line.split(",")[1:2] for line in photos] == [[" cut at output:none"]] * 2
    paths = [seen.path for seen in run.server.state.seen]
    assert paths[1:] == ["/predictions/toy/1.0", "/predictions/toy"]  # not again for each photo


def test_without_a_head_at_output_photos_stay_unclassified(run: Run, tmp_path: Path) -> None:
    run.server.state.manifest = make_manifest(network_hash="beef")
    run.bundle = write_zip(tmp_path / "small.zip", bundle_files(heads=("double", "pool")))
    lines = run()
    assert [line for line in lines if "not classified" in line] == [
        line for line in lines if line.startswith(("0.png", "1.png"))
    ]


def test_a_busy_server_costs_no_photo(run: Run, short_backoff: None) -> None:
    run.server.state.always = BUSY
    advice, *photos = run()
    assert advice.startswith("still cutting at double:fp32: ")
    assert all("green" in line and "cut at output:none" in line for line in photos)


def test_each_command_in_the_example_of_a_factory_is_one_command() -> None:
    source = (EXAMPLES / "own_network.py").read_text()
    lines = (ast.get_docstring(ast.parse(source)) or "").replace("\\\n", " ").splitlines()
    commands = [" ".join(line.split()) for line in lines if "isplit " in line and "`" not in line]
    start = "PYTHONPATH=examples isplit"
    weights = "--network own_network:build --weights mine.safetensors"
    assert commands == [
        f"{start} profile {weights} --data photos/ -o mine",
        f"{start} package {weights} --profile mine.profile.safetensors",
    ]
