"""`isplit profile`: its options and its output."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from toys import advice as toys
from toys.polling import until
from toys.serving import CLASSES, PREPROCESSING, toy_network

from isplit_plugin.cli import main
from isplit_plugin.cli import package as package_command
from isplit_plugin.cli import profile as command
from isplit_plugin.cli import profile_measuring as measuring
from isplit_plugin.cli.profile_summary import render, render_smallest, summary
from isplit_plugin.cli.progress_lines import ProgressLines
from isplit_plugin.errors import ArtifactError, DataError, QueryError, UnknownCodecError
from isplit_plugin.network import ONE_PROCESS
from isplit_plugin.profile import Profile
from isplit_plugin.wire import CODECS, QUALITIES, codec_names, load_transforms


def test_the_smallest_codec_of_each_measured_point() -> None:
    table = render_smallest(toys.profile(), 0.01).splitlines()
    assert "all but 1.0% of the photos" in table[0]
    assert [line.split()[:5] for line in table[3:6]] == [
        ["input", "jpeg@90", "300", "1.00", "1.00"],
        ["b", "fp32", "2,000", "6.67", "0.80"],
        ["d", "uint8", "100", "0.33", "0.60"],
    ]
    assert [line.split()[5] for line in table[4:6]] == ["100.0%", "yes"]  # can win
    assert "only where b/p < 1-h" in table[-1]
    assert "b            uint8" in render_smallest(toys.profile(), 0.07)
    nothing = toys.profile(measurements=(toys.measure("b", "q2+zstd", 5, (0, 0, 0), (9, 9, 9)),))
    assert "none measured" in render_smallest(nothing, 0.01)
    assert summary(nothing)["smallest"] == {"b": None}
    smallest = summary(toys.profile())["smallest"]["d"]
    assert smallest["codec"] == "uint8"
    assert (smallest["bytes"], smallest["agreement"], smallest["images"]) == (100, 1.0, 300)
    assert (smallest["byte_ratio"], smallest["tail_share"]) == pytest.approx((100 / 300, 0.6))
    assert summary(toys.profile())["best_photo"]["codec"] == "jpeg@90"
    assert summary(nothing)["best_photo"] is None
    assert summary(nothing)["measurements"][0]["byte_ratio"] is None


def test_what_the_photos_cannot_tell_is_marked() -> None:
    images = (20, 20, 20)
    photo = toys.measure("input", "jpeg@85", 250, (20, 20, 19), images)
    profile = toys.profile(measurements=(photo,))
    text = render_smallest(profile, 0.01)
    assert "98.3%*" in text
    assert "60 photos cannot tell whether by chance; about 300 would" in text
    assert summary(profile)["smallest"]["input"]["photos_needed"] == 300


def test_the_smallest_codecs_come_before_all_measured_cuts() -> None:
    text = render(toys.profile(), 0.01)
    assert render_smallest(toys.profile(), 0.01) in text
    assert text.index("smallest codec at each split point") < text.index("measured cuts with the")
    assert text.splitlines()[0].startswith("toy: ")


def test_progress_is_printed_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ""

    def printed(text: str) -> bool:
        nonlocal lines
        lines += capsys.readouterr().err
        return re.search(text, lines) is not None

    with ProgressLines(interval_s=0.01) as progress:
        until(lambda: printed(r"measuring: 0 of \? photos \(\d+ s\)\n"))
        progress(3, 7)
        until(lambda: printed(r"measuring: 3 of 7 photos \(\d+ s\)\n"))
        progress(7, 7)
        until(lambda: printed(r"measuring the times of head and tail \(\d+ s\)\n"))


def test_without_a_terminal_a_profile_prints_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporters: list[object] = []

    def measure(*_: object, progress: object, **__: object) -> None:
        reporters.append(progress)
        raise DataError("no usable images")

    loaded = SimpleNamespace(classes=("a", "b"), preprocessing=None)
    monkeypatch.setattr(measuring, "load", lambda _: (loaded, None))
    monkeypatch.setattr("isplit_plugin.network.calibration_folder", lambda *_, **__: [])
    monkeypatch.setattr("isplit_plugin.network.profile", measure)
    words = ["profile", "--network", "x:y", "--data", "x", "-o", str(tmp_path / "x")]
    for terminal, options in ((False, []), (True, []), (False, ["--json"])):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        assert main([*words, *options]) == 3
    assert isinstance(reporters[0], ProgressLines)
    assert reporters[1:] == [True, False]


def test_skipped_photos_are_reported() -> None:
    assert "skipped" not in render(toys.profile())
    assert summary(toys.profile())["skipped"] == 0
    incomplete = toys.profile(
        provenance={"skipped": "2", "skipped_why": "2 x image 'a.jpg': no bytes"}
    )
    assert render(incomplete).splitlines()[1] == "warning: 2 skipped, 2 x image 'a.jpg': no bytes"
    assert summary(incomplete)["skipped"] == 2


def test_head_times_of_pytorch_are_reported() -> None:
    as_devices = toys.profile(provenance={"head_times": "onnxruntime, as devices run them"})
    assert "head times" not in render(as_devices)
    assert summary(as_devices)["head_times"] == "onnxruntime, as devices run them"
    others = toys.profile(provenance={"head_times": "PyTorch"})
    assert render(others).splitlines()[1].startswith("warning: head times are those of PyTorch")
    assert summary(others)["head_times"] == "PyTorch"


@pytest.mark.parametrize("installed", [True, False])
def test_a_missing_onnxruntime_causes_a_warning(
    installed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    network = ["--network", "torchvision:none"]  # which does not exist, so nothing is built
    assert main(["profile", *network, "--data", "x", "-o", str(tmp_path / "x")]) == 3
    warning = "warning: head times will be those of PyTorch"
    assert (warning in capsys.readouterr().err) is not installed


@pytest.mark.parametrize(
    ("words", "warned"), [([], True), (["--weights", "w.safetensors"], False), (["--json"], False)]
)
def test_a_network_without_weights_causes_a_warning(
    words: list[str], warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = ["--network", "torchvision:none"]  # which does not exist, so nothing is built
    assert main(["profile", *network, "--data", "x", "-o", str(tmp_path / "x"), *words]) == 3
    assert ("torchvision:none has random weights" in capsys.readouterr().err) is warned


@pytest.mark.parametrize(
    ("network", "words", "warned"),
    [
        ("nowhere:build", [], True),
        ("nowhere:build", ["--weights", "w.safetensors"], False),
        ("isplit_plugin.network.zoo:none", [], False),
        ("none.pt2", [], False),
        ("resnet18", [], False),  # of no known form: its error says all
        ("resnet 18:net", [], False),
    ],
)
def test_a_factory_without_weights_causes_a_warning(
    network: str,
    words: list[str],
    warned: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = ["--data", "x", "-o", str(tmp_path / "x")]
    assert main(["profile", "--network", network, *output, *words]) == 3
    warning = f"unless {network} sets weights itself, they are random"
    assert (warning in capsys.readouterr().err) is warned


def test_classes_are_a_file_or_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "12").write_text("cat\ndog\n")
    parser = argparse.ArgumentParser()
    command.configure(parser)
    required = ["--network", "x:y", "--data", "x", "-o", "y", "--classes"]
    for text, classes in (
        ("3", ("0", "1", "2")),
        ("labels.txt", Path("labels.txt")),
        ("12", Path("12")),
        ("0", Path("0")),
    ):
        assert parser.parse_args([*required, text]).classes == classes


def test_codecs_are_chosen_by_name() -> None:
    assert measuring._codecs(None, codec_names()) == CODECS
    assert measuring._codecs("all", codec_names()) == codec_names()
    assert measuring._codecs("q4+zstd, uint8", codec_names()) == ["q4+zstd", "uint8"]
    with pytest.raises(UnknownCodecError, match=r"unknown codec 'q11'; known: .*q<2-8>"):
        measuring._codecs("q4+zstd,q11", codec_names())


def test_a_tolerance_beyond_one_is_refused_before_anything_is_loaded() -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    options = parser.parse_args(
        ["--network", "nowhere:net", "--data", "x", "-o", "y", "--tolerance", "1.5"]
    )
    with pytest.raises(QueryError, match="--tolerance"):
        measuring.measure(options, ONE_PROCESS)


def smooth_photos(folder: Path, count: int) -> Path:
    """PNG files of coarse colours."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).resize((16, 16)).save(folder / f"{number:02}.png")
    return folder


@pytest.mark.parametrize(
    ("words", "photos", "fitted"),
    [
        ([], 16, True),
        (["--codecs", "dct"], 16, True),
        (["--codecs", "uint8"], 16, False),
        (["--no-transforms"], 16, False),
        ([], 15, False),
    ],
)
def test_transforms_are_written_beside_the_profile(
    words: list[str],
    photos: int,
    fitted: bool,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded = SimpleNamespace(classes=CLASSES, preprocessing=PREPROCESSING)
    monkeypatch.setattr(measuring, "load", lambda _: (loaded, toy_network()))
    data = smooth_photos(tmp_path / "photos", photos)
    arguments = ["profile", "--network", "x:y", "--data", str(data), "-o", str(tmp_path / "toy")]
    arguments += ["--split-points", "relu1", "--photo-codecs", "jpeg@90", "--no-report", "--json"]
    assert main([*arguments, "--threads", "1", *words]) == 0
    output = json.loads(capsys.readouterr().out)
    file = tmp_path / "toy.transforms.safetensors"
    assert file.is_file() is fitted
    assert output["transforms"] == (str(file) if fitted else None)
    measured = Profile.load(tmp_path / "toy.profile.safetensors")
    qualities = [m.cut.quality for m in measured.measurements if m.codec == "dct"]
    assert qualities == ([*QUALITIES] if fitted else [])
    if fitted:
        [transform] = load_transforms(file)
        assert transform.split_point == "relu1"
        options = argparse.Namespace(
            profile=tmp_path / "toy.profile.safetensors", transforms=None, no_transforms=False
        )
        found = package_command._transforms(options, measured)
        assert [t.split_point for t in found] == ["relu1"]
        # A file of an earlier profile is not taken for this one's.
        unmeasured = replace(measured, measurements=())
        assert package_command._transforms(options, unmeasured) == ()
        options.no_transforms = True
        assert package_command._transforms(options, measured) == ()


def test_correctors_are_trained_shown_and_packaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = SimpleNamespace(classes=CLASSES, preprocessing=PREPROCESSING)
    monkeypatch.setattr(measuring, "load", lambda _: (loaded, toy_network()))
    data = smooth_photos(tmp_path / "photos", 16)
    arguments = ["profile", "--network", "x:y", "--data", str(data), "-o", str(tmp_path / "toy")]
    arguments += ["--split-points", "relu1", "--photo-codecs", "jpeg@90", "--no-report"]
    arguments += ["--codecs", "dct", "--threads", "1", "--corrector-steps", "3"]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "1 split points, 3 x 3 steps each" in shown.err
    assert "the corrector has not seen" in shown.out
    file = tmp_path / "toy.correctors.safetensors"
    assert str(file) in shown.out
    measured = Profile.load(tmp_path / "toy.profile.safetensors")
    assert set(measured.correctors) == {"relu1"}
    transforms = load_transforms(tmp_path / "toy.transforms.safetensors")
    options = argparse.Namespace(
        profile=tmp_path / "toy.profile.safetensors", correctors=None, no_correctors=False
    )
    assert set(package_command._correctors(options, measured, transforms)) == {"relu1"}
    # A file of an earlier profile is not taken for this one's.
    uncorrected = replace(measured, correctors={})
    assert package_command._correctors(options, uncorrected, transforms) == {}
    options.no_correctors = True
    assert package_command._correctors(options, measured, transforms) == {}
    assert main([*arguments[:-2], "--corrector", "0.1", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["correctors"] == str(file)
    trained = output["trained"]["relu1"]
    assert trained["steps"] == 20  # the fewest
    assert len(trained["divergence"]) == len(trained["corrected"]) == len(QUALITIES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--corrector", "60", "--corrector-steps", "100"], "got both"),
        (["--corrector", "60", "--no-transforms"], "leave out --no-transforms"),
    ],
)
def test_corrector_options_that_contradict_are_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["profile", "--network", "x:y", "--data", str(tmp_path), "-o", str(tmp_path / "n")]
    assert main([*arguments, *words]) == 3
    assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--corrector", "-1"])
    assert "expected seconds above 0, got '-1'" in capsys.readouterr().err


def test_int8_heads_are_made_written_and_packaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = SimpleNamespace(classes=CLASSES, preprocessing=PREPROCESSING)
    monkeypatch.setattr(measuring, "load", lambda _: (loaded, toy_network()))
    data = smooth_photos(tmp_path / "photos", 8)
    arguments = ["profile", "--network", "x:y", "--data", str(data), "-o", str(tmp_path / "toy")]
    arguments += ["--split-points", "relu1", "--photo-codecs", "jpeg@90", "--no-report"]
    arguments += ["--codecs", "uint8", "--threads", "1", "--head-precision", "int8"]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "making 1 heads in int8" in shown.err
    file = tmp_path / "toy.heads.safetensors"
    assert str(file) in shown.out
    measured = Profile.load(tmp_path / "toy.profile.safetensors")
    options = argparse.Namespace(profile=tmp_path / "toy.profile.safetensors", int8_heads=None)
    heads = package_command._int8_heads(options, measured)
    assert heads is not None
    assert heads.sha256() == measured.int8_heads
    # A file of an earlier profile is not taken for this one's.
    assert package_command._int8_heads(options, replace(measured, int8_heads={})) is None
    options.int8_heads = tmp_path / "none"
    with pytest.raises(ArtifactError):
        package_command._int8_heads(options, measured)
    assert main([*arguments, "--corrector-steps", "3"]) == 3
    assert "leave out --corrector" in capsys.readouterr().err
