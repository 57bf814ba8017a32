"""What commands print for people."""

from __future__ import annotations

from dataclasses import replace

from toys.report import make_manifest, make_profile

from isplit_plugin.advice import LiveView, recommend
from isplit_plugin.schema import ON_DEVICE, Cut, StandingPick
from isplit_plugin.terminal import cuts_to_show, recommendation_text, table, utc_time


def test_tables_align_numbers_right_and_words_left() -> None:
    lines = table(("name", "n"), [("a", 5), ("bc", 1000), ("d", None)]).splitlines()
    assert lines[2:] == ["a         5", "bc    1,000", "d         -"]


def test_times_are_utc() -> None:
    assert utc_time(1_795_160_169.0) == "2026-11-20 07:36:09 UTC"
    assert utc_time(None) == "none yet"


def test_a_recommendation_always_shows_what_everybody_compares_with() -> None:
    profile = make_profile()
    answer = recommend(make_manifest(profile), profile, LiveView.empty())
    cuts = [row.cut for row in cuts_to_show(answer, 1)]
    assert cuts[0] == answer.cuts[0].cut
    assert Cut("input", "jpeg", 90) in cuts
    assert ON_DEVICE in cuts
    assert len(set(cuts)) == len(cuts)
    assert recommendation_text(answer, limit=1).count("\n") < recommendation_text(answer).count(
        "\n"
    )


def test_a_recommendation_says_what_is_in_force_and_what_waits_for_proof() -> None:
    profile = make_profile()
    answer = recommend(make_manifest(profile), profile, LiveView.empty())
    assert "standing pick" not in recommendation_text(answer)

    def standing_line(pick: StandingPick) -> str:
        lines = recommendation_text(replace(answer, standing=pick)).splitlines()
        [line] = [line for line in lines if "standing pick" in line]
        return line

    contested = StandingPick(
        cut=Cut("b", "uint8"),
        since=1_795_160_169.0,
        changes=2,
        rival=Cut("d", "fp32"),
        reason="3 ms faster, which is not proven",
    )
    assert standing_line(contested) == (
        "  standing pick: b:uint8, since 2026-11-20 07:36:09 UTC; d:fp32 waits for proof "
        "(3 ms faster, which is not proven)"
    )
    assert standing_line(StandingPick(cut=Cut("b", "uint8"), since=None, changes=0)) == (
        "  standing pick: b:uint8, from the profile; no other cut is estimated to be better"
    )
