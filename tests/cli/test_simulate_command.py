"""``isplit simulate``: its table, JSON and page, and what bad input gets."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys.serving import profile_of, toy_network

from isplit_plugin.cli import main
from isplit_plugin.profile import Profile


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sending 900 bytes of JPEG, or 130 bytes behind relu2, or staying on the device."""
    torch.manual_seed(3)
    made = profile_of(
        toy_network(), torch.randn(12, 3, 16, 16), nbytes={("relu2", "uint8+zstd"): 130.0}
    )
    path = tmp_path_factory.mktemp("profile") / "toy.profile.safetensors"
    made.save(path)
    return path


def test_a_table_and_a_conclusion(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--bandwidth-mbps", "0.5", "--photos", "50", "--deadline-ms", "150"]
    assert main(["simulate", str(profile), *options]) == 0
    printed = capsys.readouterr()
    assert "1 device, each 50 photos at 2 a second, over 0.5 Mbit/s" in printed.out
    lines = printed.out.splitlines()
    policies = [line.split()[0] for line in lines[4:] if line and ":" in line.split()[0]]
    assert "output:none" in policies
    assert any(line.startswith("adaptive") for line in lines)
    assert any(line.startswith("oracle") for line in lines)
    assert "best fixed cut: " in printed.out
    assert "within 150 ms at p95: " in printed.out
    assert "simulating adaptive" in printed.err


def test_json_and_a_page(profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "drive.up"
    trace.write_text("\n".join(str(ms) for ms in range(3, 3000, 7)))
    page = tmp_path / "simulation.html"
    options = ["--trace", str(trace), "--photos", "20", "--json", "--report", str(page)]
    assert main(["simulate", str(profile), *options, "--no-oracle"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["link"].startswith("drive.up: 1.72 Mbit/s")
    assert answer["deadline_ms"] is None
    assert answer["results"][-1]["policy"] == "adaptive"
    assert answer["results"][0]["missed"] is None
    assert "adaptive" in page.read_text()


def test_on_udp_it_shows_latency_against_what_is_left_of_agreement(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Profile.load(profile)
    left = {"output": 1.0, "input": 0.4, "relu2": 0.8}
    path = tmp_path / "lossy.profile.safetensors"
    measurements = [replace(m, under_loss={0.05: left[m.split_point]}) for m in made.measurements]
    replace(made, measurements=tuple(measurements)).save(path)
    page = tmp_path / "udp.html"
    options = ["--udp", "0.05", "--bandwidth-mbps", "50", "--rtt-ms", "1", "--slowdown", "1000"]
    assert main(["simulate", str(path), *options, "--photos", "20", "--report", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "on UDP, 5.0% of the packets are lost" in printed
    assert "adaptive" not in printed
    assert page.is_file()
    assert main(["simulate", str(path), *options, "--photos", "20", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["loss"] == 0.05
    latencies = [result["mean_ms"] for result in answer["results"]]
    agreements = [result["agreement"] for result in answer["results"]]
    assert latencies == sorted(latencies)
    assert agreements == sorted(set(agreements))
    assert agreements[-1] == 1.0


def test_on_udp_it_names_what_meets_deadline_and_tolerance(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Profile.load(profile)
    left = {"output": 1.0, "input": 0.4, "relu2": 0.8}
    path = tmp_path / "lossy.profile.safetensors"
    measurements = [replace(m, under_loss={0.05: left[m.split_point]}) for m in made.measurements]
    replace(made, measurements=tuple(measurements)).save(path)
    options = ["--udp", "0.05", "--bandwidth-mbps", "50", "--rtt-ms", "1", "--slowdown", "1000"]
    options += ["--photos", "20", "--deadline-ms", "1e6"]
    for tolerance, cuts in (("0.01", "output:none"), ("0.3", "relu2:.*, output:none")):
        assert main(["simulate", str(path), *options, "--tolerance", tolerance]) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        least = f"{1 - float(tolerance):g}"
        assert re.fullmatch(
            rf"within 1e\+06 ms at p95 and agreement of at least {least}: {cuts}", line
        )


def test_a_cut_whose_agreement_is_not_certain_has_a_star(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Profile.load(profile)
    measurements = []
    for measurement in made.measurements:
        agreeing = measurement.images.copy()
        if measurement.split_point == "input":
            agreeing[agreeing.argmax()] -= 1  # one photo of twelve: it may be chance
        measurements.append(replace(measurement, agreeing=agreeing))
    path = tmp_path / "doubtful.profile.safetensors"
    replace(made, measurements=tuple(measurements)).save(path)
    options = ["--bandwidth-mbps", "50", "--rtt-ms", "1", "--slowdown", "1000", "--photos", "20"]
    assert main(["simulate", str(path), *options, "--deadline-ms", "1e6"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^input:\S+ .* 0\.917\* ", printed, re.MULTILINE)
    assert re.search(r"^output:none .* 1\.000 ", printed, re.MULTILINE)
    assert re.search(r"^within 1e\+06 ms at p95: input:\S+\*, ", printed, re.MULTILINE)
    assert "too few photos to tell whether by chance" in printed
    assert main(["simulate", str(path), *options, "--no-oracle", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["tolerance"] == 0.01
    undecided = {result["policy"]: result["undecided"] for result in answer["results"]}
    assert undecided["output:none"] is False
    assert any(undecided.values())


def test_a_loss_that_the_profile_was_not_measured_under(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", str(profile), "--udp", "0.05"]) == 3
    assert "loss 0.05: expected one that the profile was measured under, none" in (
        capsys.readouterr().err
    )


def test_a_fleet_on_a_server_with_batches(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--devices", "3", "--photos", "20", "--workers", "2", "--prepare-ms", "9"]
    options += ["--batch-size", "4", "--batch-delay-ms", "5", "--batch-cost", "0.1"]
    assert main(["simulate", str(profile), *options]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("3 devices, each 20 photos at 2 a second")
    assert "to 2 workers with batches of up to 4" in printed


def test_what_exits_would_bring(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--bandwidth-mbps", "0.05", "--rtt-ms", "200", "--photos", "50"]
    exits = ["--exit-share", "relu2:uint8+zstd=0.9", "--tolerance", "0.05"]
    assert main(["simulate", str(profile), *options, "--no-oracle", *exits, "--json"]) == 0
    results = {r["policy"]: r for r in json.loads(capsys.readouterr().out)["results"]}
    assert results["relu2:uint8+zstd"]["exited"] > 0.7
    assert results["output:none"]["exited"] == 0
    assert main(["simulate", str(profile), *options, *exits]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^policy .* exits$", printed, re.MULTILINE)
    assert "exits: share of photos that the device answers by itself" in printed
    assert main(["simulate", str(profile), *options, *exits, "--exit-tolerance", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "the exit at relu2:uint8+zstd does not answer: its tolerance of 50.00%" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "0"], "rate: expected a number of at least"),
        (["--tolerance", "2"], "tolerance: expected 0 to 1, got 2.0"),
        (["--bandwidth-mbps", "-1"], "expected a positive bandwidth in Mbit/s, got -1.0"),
        (["--swinging", "nan"], "--swinging: expected a positive number, got nan"),
        (["--trace", "missing.up"], "missing.up: cannot read the trace"),
        (["--batch-cost", "2"], "batch_cost: expected 0 to 1, got 2.0"),
        (["--prepare-ms", "-1"], "prepare_ms: expected a number of at least 0"),
        (["--slowdown", "0"], "slowdown: expected a number of at least"),
        (["--exit-share", "relu2"], "expected CUT=SHARE, such as layer3:uint8=0.6, got 'relu2'"),
        (["--exit-share", "relu2=much"], "expected CUT=SHARE"),
        (["--exit-share", "relu2=2"], "the share of the exit at relu2: expected 0 to 1, got 2.0"),
        (["--exit-share", "input=0.5"], "unknown split point 'input'; known: relu"),
        (["--exit-tolerance", "0"], "exit_tolerance: expected above 0 and below 1, got 0.0"),
        (["--exit-share", "relu2=1", "--udp", "0.05"], "--exit-share: not with --udp"),
    ],
)
def test_bad_input(
    profile: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["simulate", str(profile), *options]) == 3
    assert message in capsys.readouterr().err
