"""The example of a device goes on whatever becomes of its version on the server."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import PIL.Image
import pytest
from toys.client import (
    BUSY,
    Fault,
    Handler,
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
        words += ["--device-token-file", str(self.folder / "phone.token"), *options]
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


def answers(lines: list[str]) -> list[str]:
    """The lines about frames, without their ages."""
    return [line.rpartition(",")[0] for line in lines if line.startswith("frame ")]


def test_each_frame_is_answered_and_the_figures_follow(run: Run) -> None:
    lines = run("--deadline-ms", "30000")
    assert [line.split(" (")[0] for line in answers(lines)] == ["frame 0: green", "frame 1: green"]
    figures = next(line for line in lines if line.startswith("frames: "))
    assert figures.startswith("frames: 2 classified, 0 not, 0 dropped; ")
    assert "half are at most" in figures
    assert figures.endswith("; 0 later than 30000 ms")
    assert any(line.startswith("cuts: ") for line in lines)
    assert any(line.startswith("link: ") for line in lines)


def test_it_cuts_where_the_server_advises(run: Run) -> None:
    """The advice has one cut, which is all that the device may take."""
    assert all("cut at pool:uint8" in line for line in answers(run()))


def test_a_missed_deadline_is_counted(run: Run) -> None:
    assert any(line.endswith("; 2 later than 0.001 ms") for line in run("--deadline-ms", "0.001"))


@pytest.mark.parametrize(
    "fault",
    [
        refusing(StoreError("the store is away")),
        refusing(UnknownVersionError("the store forgot it")),
        answering(500, b"no JSON"),
        answering(200, b"[]"),
    ],
)
def test_without_advice_the_own_cut_is_used(run: Run, fault: Fault) -> None:
    def no_advice(handler: Handler) -> None:
        if handler.path.startswith("/predictions/isplit"):
            fault(handler)
        else:
            handler.predict(run.server.state.seen[-1].body)

    run.server.state.always = no_advice
    lines = answers(run("--cut", "double:fp16"))
    assert len(lines) == 2
    assert all("green" in line for line in lines)
    assert "cut at double:fp16" in lines[0]


def test_advice_for_another_network_or_a_missing_head_is_not_followed(
    run: Run, tmp_path: Path
) -> None:
    run.server.state.advice = recommendation(network_hash="beef")
    assert "cut at double:fp32" in answers(run())[0]
    run.server.state.advice = recommendation(Cut("output", "none"))
    run.bundle = write_zip(tmp_path / "small.zip", bundle_files(heads=("double", "pool")))
    lines = answers(run())
    assert all("green" in line and "cut at double:fp32" in line for line in lines)


def test_a_server_with_another_network_leaves_the_whole_network_here(run: Run) -> None:
    run.server.state.versions = ("2.0",)
    run.server.state.manifest = make_manifest(network_hash="beef")
    lines = run()
    assert lines[-1].startswith("this device needs a new head bundle: ")
    assert len(answers(lines)) == 2
    assert all("green" in line and "cut at output:none" in line for line in answers(lines))


def test_without_a_head_at_output_frames_stay_unclassified(run: Run, tmp_path: Path) -> None:
    run.server.state.manifest = make_manifest(network_hash="beef")
    run.bundle = write_zip(tmp_path / "small.zip", bundle_files(heads=("double", "pool")))
    lines = run()
    frames = [line for line in lines if line.startswith("frame ")]
    assert len(frames) == 2
    assert all("not classified, " in line for line in frames)
    assert any(line.startswith("frames: 0 classified, 2 not") for line in lines)


def test_a_busy_server_costs_no_frame(run: Run, short_backoff: None) -> None:
    run.server.state.always = BUSY
    lines = run()
    assert len(answers(lines)) == 2
    assert all("green" in line and "cut at output:none" in line for line in answers(lines))
    assert lines[-1].startswith("the server failed: ")


def test_a_file_that_is_no_photo_does_not_end_the_run(run: Run) -> None:
    (run.folder / "photos" / "0a.txt").write_text("no photo")
    lines = run()
    assert len(answers(lines)) == 3
    assert "frame 1: not classified" in "\n".join(lines)
    assert any(line.startswith("frames: 2 classified, 1 not") for line in lines)


def test_a_camera_does_not_wait(run: Run) -> None:
    for number in range(2, 30):
        shutil.copy(run.folder / "photos" / "0.png", run.folder / "photos" / f"{number}.png")
    figures = next(line for line in run("--fps", "1000") if line.startswith("frames: "))
    classified, _, dropped = (int(word) for word in re.findall(r"\d+", figures)[:3])
    assert classified + dropped == 30


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
