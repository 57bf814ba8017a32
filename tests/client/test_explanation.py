"""The text of an explanation."""

from __future__ import annotations

import re

from isplit_plugin.adaptive import FixedLink, LinkFilter, Option, decide
from isplit_plugin.client.explanation import Explanation
from isplit_plugin.schema import Cut

UNMEASURED = "its agreement was never measured"


def explained(*options: Option) -> list[str]:
    decision = decide(options, FixedLink(8.0, 10.0))
    return str(Explanation(decision, LinkFilter().estimate(), None, 0.0)).splitlines()


def test_cuts_that_were_never_measured_share_a_line_without_made_up_figures() -> None:
    lines = explained(
        Option(Cut("a", "uint8"), 1000, 5, 5, agreement=1.0),
        Option(Cut("a", "fp16"), 62_720, 5, 5, refused=UNMEASURED),
        Option(Cut("a", "fp32"), 62_720, 5, 5, refused=UNMEASURED),
    )
    assert [line.split()[0] for line in lines] == ["link:", "a:uint8", "not"]
    assert lines[-1] == f"not taken ({UNMEASURED}): a:fp16, a:fp32"
    assert "62720" not in "\n".join(lines)


def test_a_cut_that_is_taken_has_a_line_of_its_own() -> None:
    lines = explained(Option(Cut("a", "fp32"), 62_720, 5, 5, refused=UNMEASURED))
    assert [line.split()[0] for line in lines] == ["link:", "a:fp32"]


def test_an_unknown_bandwidth_is_a_range_in_plain_numbers() -> None:
    (line, _) = explained(Option(Cut("a", "uint8"), 1000, 5, 5, agreement=1.0))
    assert re.search(r"bandwidth not known yet \(likely 2\.\d to 1\d\d Mbit/s\)", line)
