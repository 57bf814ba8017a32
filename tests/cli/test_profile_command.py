"""`isplit profile`: its options and its output."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from toys import advice as toys

from isplit_plugin.cli import main
from isplit_plugin.cli import profile as command
from isplit_plugin.cli.profile_summary import render, render_smallest, summary
from isplit_plugin.errors import QueryError, UnknownCodecError
from isplit_plugin.wire import CODECS, codec_names


def test_the_smallest_codec_of_each_measured_point() -> None:
    table = render_smallest(toys.profile(), 0.01).splitlines()
    assert "all but 1.0% of the photos" in table[0]
    assert [line.split()[:5] for line in table[3:]] == [
        ["input", "jpeg", "300", "1.00", "99.3%"],
        ["b", "fp32", "2,000", "6.67", "100.0%"],
        ["d", "uint8", "100", "0.33", "100.0%"],
    ]
    assert "b            uint8" in render_smallest(toys.profile(), 0.07)
    nothing = toys.profile(measurements=(toys.measure("b", "q2+zstd", 5, (0, 0, 0), (9, 9, 9)),))
    assert "none measured" in render_smallest(nothing, 0.01)
    assert summary(nothing)["smallest"] == {"b": None}
    smallest = summary(toys.profile())["smallest"]["d"]
    assert smallest["codec"] == "uint8"
    assert (smallest["bytes"], smallest["agreement"], smallest["images"]) == (100, 1.0, 300)


def test_skipped_photos_are_reported() -> None:
    assert "skipped" not in render(toys.profile())
    assert summary(toys.profile())["skipped"] == 0
    incomplete = toys.profile(
        provenance={"skipped": "2", "skipped_why": "2 x image 'a.jpg': no bytes"}
    )
    assert render(incomplete).splitlines()[1] == "warning: 2 skipped, 2 x image 'a.jpg': no bytes"
    assert summary(incomplete)["skipped"] == 2


@pytest.mark.parametrize(
    ("words", "warned"), [([], True), (["--weights", "w.safetensors"], False), (["--json"], False)]
)
def test_a_network_without_weights_causes_a_warning(
    words: list[str], warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = ["--network", "torchvision:none"]  # which does not exist, so nothing is built
    assert main(["profile", *network, "--data", "x", "-o", str(tmp_path / "x"), *words]) == 3
    assert ("torchvision:none has random weights" in capsys.readouterr().err) is warned


def test_codecs_are_chosen_by_name() -> None:
    assert command._codecs(None, codec_names()) == CODECS
    assert command._codecs("all", codec_names()) == codec_names()
    assert command._codecs("q4+zstd, uint8", codec_names()) == ["q4+zstd", "uint8"]
    with pytest.raises(UnknownCodecError, match=r"unknown codec 'q11'; known: .*q<2-8>"):
        command._codecs("q4+zstd,q11", codec_names())


def test_a_tolerance_beyond_one_is_refused_before_anything_is_loaded() -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    options = parser.parse_args(
        ["--network", "nowhere:net", "--data", "x", "-o", "y", "--tolerance", "1.5"]
    )
    with pytest.raises(QueryError, match="--tolerance"):
        command.run(options)
