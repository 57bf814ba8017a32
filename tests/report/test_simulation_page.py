"""The page of a simulation: what its figure says."""

from __future__ import annotations

import pytest

from isplit_plugin.adaptive import Option
from isplit_plugin.report.simulation_page import latency_figure
from isplit_plugin.report.style import to_svg
from isplit_plugin.schema import Cut
from isplit_plugin.simulation import ConstantUplink, Scenario, compare


@pytest.fixture(scope="module")
def svg() -> str:
    options = (
        Option(Cut("input", "jpeg"), 9000, 5, 30, agreement=1.0),
        Option(Cut("_blocks.5", "uint8"), 3000, 40, 20, agreement=1.0),
        Option(Cut("output", "none"), 0, 90, 0, agreement=1.0),
    )
    scenario = Scenario(options, ConstantUplink(2.0), photos=50, deadline_ms=150)
    return to_svg(latency_figure(compare(scenario), scenario.deadline_ms))


@pytest.mark.parametrize(
    "name", ["adaptive", "oracle", "input:jpeg", "_blocks.5:uint8", "output:none", "deadline"]
)
def test_the_legend_names_every_curve(svg: str, name: str) -> None:
    assert f">{name}</text>" in svg


def test_times_are_plain_numbers(svg: str) -> None:
    assert ">100</text>" in svg
    assert ">200</text>" in svg
    assert "mathdefault" not in svg
