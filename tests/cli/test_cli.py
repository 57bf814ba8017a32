"""The command line: help that teaches, errors in one line, exit codes that mean something."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toys import advice as toys
from toys.polling import until

from isplit_plugin import cli, errors
from isplit_plugin.cli import COMMANDS, build_parser, exit_code, main, package, predict
from isplit_plugin.cli.common import class_ids, note
from isplit_plugin.schema import ON_DEVICE, Cut, Prediction, Timings, TopClass
from isplit_plugin.traffic import Store


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_teaches_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"isplit {command}" in text
    assert "example" in text


def test_sigterm_ends_a_command_like_ctrl_c_with_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    def run(options: argparse.Namespace) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: False)
        finally:
            cleaned.append(options.model)
        return 0

    monkeypatch.setattr("isplit_plugin.cli.recommend.run", run)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["recommend", "toy"]) == 143
    assert cleaned == ["toy"]
    assert capsys.readouterr().err == "isplit recommend: interrupted\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_overview_names_every_command() -> None:
    overview = build_parser().format_help()
    for command in COMMANDS:
        assert f"\n    {command}" in overview
        assert re.search(rf"\b{command}\b", cli.__doc__ or "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.DataError("x"), 3),
        (errors.UnknownModelError("x"), 3),
        (errors.BundleError("x"), 3),
        (errors.ServerUnavailableError("x"), 4),
        (errors.AuthenticationError("x"), 4),
        (errors.ServingError("x"), 5),
        (errors.StoreError("x"), 5),
        (errors.IsplitError("x"), 1),
    ],
)
def test_exit_codes(error: errors.IsplitError, code: int) -> None:
    assert exit_code(error) == code


def test_usage_errors_exit_with_two() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["recommend"])
    assert stop.value.code == 2


def test_a_server_that_is_down(capsys: pytest.CaptureFixture[str]) -> None:
    # Port 9 (discard) is privileged and never bound here.
    assert main(["recommend", "resnet50", "--url", "http://127.0.0.1:9"]) == 4
    captured = capsys.readouterr()
    assert captured.err.startswith("isplit recommend: ")
    assert captured.err.count("\n") == 1
    assert "127.0.0.1:9" in captured.err


def test_errors_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "resnet50", "--classes", "cat,", "--json"]) == 3
    body = json.loads(capsys.readouterr().err)
    assert body["code"] == "bad_query"
    assert "'cat,'" in body["error"]


def test_a_missing_profile_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"{tmp_path}/none.profile.safetensors"
    assert main(["package", "--network", "torchvision:resnet18", "--profile", path]) == 3
    assert path in capsys.readouterr().err


def test_registering_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["register", "none.mar"]) == 3
    assert "none.mar" in capsys.readouterr().err


def test_the_client_commands_load_no_engine() -> None:
    code = (
        "import sys\n"
        "from isplit_plugin.cli import build_parser\n"
        "build_parser('predict'); build_parser('recommend')\n"
        "import isplit_plugin.client, isplit_plugin.demo.device\n"
        "heavy = {'torch', 'sqlalchemy', 'ts', 'matplotlib', 'onnx'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_class_ids() -> None:
    assert class_ids("281, 282") == (281, 282)
    with pytest.raises(errors.QueryError, match="'-1'"):
        class_ids("-1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "0"], "--limit: expected a whole number from 1, got '0'"),
        (["--batch-size", "-2"], "--batch-size: expected a whole number from 1"),
        (["--threads", "x"], "--threads: expected a whole number from 1, got 'x'"),
        (
            ["--mean", "a,b,c"],
            "--mean: expected numbers with commas, such as 0.5,0.5,0.5, got 'a,b,c'",
        ),
        (["--interpolation", "cubic"], "invalid choice: 'cubic'"),
    ],
)
def test_options_say_what_they_expect(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["profile", "--network", "nowhere:net", "--data", "x", "-o", "y", *words])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_found_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    # A network that does not exist either: the folder is looked at first.
    words = [
        "profile",
        "--network",
        "nowhere:net",
        "--data",
        str(tmp_path),
        "-o",
        f"{tmp_path}/file/name",
    ]
    assert main(words) == 3
    assert f"{tmp_path}/file: expected a folder to write to" in capsys.readouterr().err
    words[-1] = f"{tmp_path}/new/folder/name"
    assert main(words) == 3
    assert "nowhere" in capsys.readouterr().err
    assert (tmp_path / "new/folder").is_dir()


def test_a_class_to_show_is_checked_before_the_photos_are_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "profile",
        "--network",
        "toys.network:Residual",
        "--input-size",
        "6",
        "--data",
        str(tmp_path / "none"),
    ]
    assert main([*words, "-o", str(tmp_path / "x"), "--show-classes", "77"]) == 3
    assert "unknown class '77'; known: 0 to " in capsys.readouterr().err


def test_a_folder_in_the_way_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["serve", "--model-store", str(tmp_path), "--workdir", str(tmp_path / "file")]) == 3
    error = capsys.readouterr().err
    assert f"{tmp_path}/file: File exists" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (
            Cut("b", "uint8"),
            "cut at b as uint8: sent 1.5 KB, head 3.0 ms, round trip 9.0 ms (tail 2.0 ms)",
        ),
        (
            Cut("input", "jpeg", 90),
            "the whole network on the server, input as jpeg@90: sent 1.5 KB, round trip 9.0 ms (tail 2.0 ms)",
        ),
        (ON_DEVICE, "the whole network here: nothing sent, 3.0 ms"),
    ],
)
def test_a_prediction_says_what_ran_where(cut: Cut, said: str) -> None:
    timings = Timings(head_ms=3.0, round_trip_ms=9.0, tail_ms=2.0)
    prediction = Prediction((TopClass(1, "dog", 2.0, 0.875),), None, cut, 1500, 80, timings, "")
    assert predict.sentence(Path("a.jpg"), prediction) == f"a.jpg: dog 88%\n    {said}"


def test_a_prediction_as_json_tells_its_times_apart() -> None:
    timings = Timings(
        prepare_ms=1.0, head_ms=3.0, round_trip_ms=9.0, queue_ms=0.5, decode_ms=1.5, tail_ms=2.0
    )
    prediction = Prediction(
        (TopClass(1, "dog", 2.0, 0.875),), None, Cut("b", "uint8"), 1500, 80, timings, ""
    )
    times = predict.describe(Path("a.jpg"), prediction)["timings_ms"]
    assert isinstance(times, dict)
    assert (times["prepare"], times["network"], times["queue"]) == (1.0, 5.0, 0.5)


def test_packaging_warns_of_a_default_above_the_photo() -> None:
    (warning,) = package._larger_than_photo(toys.profile(), toys.manifest())
    assert "b:uint8, is 500 bytes an image, 1.7 times the best photo" in warning
    for smaller_or_not_measured in (Cut("d", "uint8"), Cut("c", "uint8")):
        manifest = toys.manifest(default=smaller_or_not_measured)
        assert package._larger_than_photo(toys.profile(), manifest) == []


def test_a_default_without_its_codec(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["package", "--network", "n", "--profile", "none", "--default", "layer3"]) == 3
    assert (
        "cut: expected SPLIT_POINT:CODEC, such as layer2:uint8+zstd, got 'layer3'"
        in capsys.readouterr().err
    )


def test_notes_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    note(argparse.Namespace(json=True), "hidden")
    note(argparse.Namespace(json=False), "shown")
    note(argparse.Namespace(), "a command without --json")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "shown\na command without --json\n")


def test_the_store_of_a_server_that_was_never_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    assert main(["store", "check", "--store", url]) == 5
    assert "expected an existing file" in capsys.readouterr().err
    with Store(url) as store:
        store.put_network(toys.manifest(), toys.profile())
    assert main(["store", "check", "--store", url]) == 0
    assert capsys.readouterr().out.rstrip().endswith("none yet")
