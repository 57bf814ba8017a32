"""What an exit is worth: answers computed by hand, and shares that a device sees for itself."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.adaptive import (
    PRIOR_PHOTOS,
    Decider,
    ExitShares,
    FixedLink,
    LinkFilter,
    Option,
    OptionExit,
    decide,
    exit_refusal,
    patience_ms,
)
from isplit_plugin.schema import Cut

LOCAL = Option(Cut("output", "none"), 0, 300, 0, agreement=1.0)
PHOTO = Option(Cut("input", "jpeg"), 15_000, 5, 40, agreement=0.995)
EXIT = OptionExit("feed", (1, 2), share=0.75, tolerance=0.01, audit_share=0.2)
PLAIN = Option(Cut("layer2", "uint8"), 5_000, 90, 25, agreement=0.99)
SPLIT = replace(PLAIN, exit=EXIT)
LINK = FixedLink(1.0, 20.0)


def test_only_photos_that_no_exit_answers_need_network_and_server() -> None:
    # 90 ms here; 20 + 40 + 25 ms for a quarter of the photos. Plain 175 ms, the photo 185 ms.
    decision = decide((LOCAL, PHOTO, SPLIT), LINK)
    assert decision.cut == SPLIT.cut
    assert decision.taken.expected_ms == pytest.approx(90 + 0.25 * 85)
    assert decide((PLAIN,), LINK).taken.expected_ms == pytest.approx(175)


def test_on_a_faster_link_an_exit_decides_between_split_and_photo() -> None:
    link = FixedLink(20.0, 20.0)  # the photo takes 71 ms, the split 90 + 47, or 90 + 0.25 * 47
    assert decide((PHOTO, PLAIN), link).cut == PHOTO.cut
    nearer = replace(SPLIT, device_ms=50)
    assert decide((PHOTO, replace(PLAIN, device_ms=50)), link).cut == PHOTO.cut
    assert decide((PHOTO, nearer), link).cut == SPLIT.cut


def test_bytes_are_those_of_the_others_and_of_audits() -> None:
    # A quarter, and a fifth of the other three quarters.
    assert SPLIT.expected_bytes == pytest.approx(5_000 * (0.25 + 0.15))
    small = replace(PHOTO, nbytes=3_000)
    assert decide((small, PLAIN), LINK, objective="bytes").cut == PHOTO.cut
    assert decide((small, SPLIT), LINK, objective="bytes").cut == SPLIT.cut
    audited = replace(SPLIT, exit=replace(EXIT, audit_share=1.0))
    assert decide((small, audited), LINK, objective="bytes").cut == PHOTO.cut


@pytest.mark.parametrize(
    ("deadline_ms", "in_time"),
    [(89.0, 0.0), (91.0, 0.75), (174.0, 0.75), (176.0, 1.0)],
)
def test_a_deadline_is_met_by_the_share_of_the_exit_at_least(
    deadline_ms: float, in_time: float
) -> None:
    (row,) = decide((SPLIT,), LINK, deadline_ms=deadline_ms).options
    assert row.in_time == pytest.approx(in_time)


def test_an_exit_that_may_not_answer_changes_nothing() -> None:
    refused = replace(SPLIT, exit=replace(EXIT, refused="beyond the tolerance"))
    assert decide((refused,), LINK).taken.expected_ms == pytest.approx(175)
    assert refused.expected_bytes == 5_000


def test_patience_is_for_a_photo_that_the_exit_did_not_answer() -> None:
    quick = replace(LOCAL, device_ms=120)
    assert patience_ms(decide((quick, SPLIT), LINK), None) == pytest.approx(175)
    always = replace(SPLIT, exit=replace(EXIT, share=1.0))
    assert patience_ms(decide((quick, always), LINK), None) == pytest.approx(120)


@pytest.mark.parametrize(
    ("agreement", "exit_tolerance", "tolerance", "refusal"),
    [
        (1.0, 0.01, 0.01, ""),
        (0.995, 0.005, 0.01, ""),
        (0.995, 0.01, 0.01, "1.00% and the 0.50% that its cut loses are together above 1.00%"),
        (0.995, 0.01, 0.02, ""),
        (math.nan, 0.01, 1.0, "the agreement of its cut is not known"),
    ],
)
def test_what_cut_and_exit_lose_adds_up(
    agreement: float, exit_tolerance: float, tolerance: float, refusal: str
) -> None:
    said = exit_refusal(agreement, exit_tolerance, tolerance)
    assert refusal in said
    assert bool(said) == bool(refusal)


@given(st.floats(0, 1), st.floats(0.001, 0.999), st.floats(0, 1))
def test_no_exit_answers_beyond_the_tolerance(
    agreement: float, exit_tolerance: float, tolerance: float
) -> None:
    if not exit_refusal(agreement, exit_tolerance, tolerance):
        assert 1 - agreement + exit_tolerance <= tolerance + 1e-6


def test_the_share_is_the_endpoints_until_the_device_has_seen_its_own() -> None:
    shares = ExitShares()
    assert shares.expected(SPLIT.cut, EXIT) == EXIT
    for answered in (True, False, False, False):
        shares.add(SPLIT.cut, EXIT, answered)
    expected = shares.expected(SPLIT.cut, EXIT)
    assert expected is not None
    assert expected.seen == pytest.approx(4, rel=0.02)
    share = (PRIOR_PHOTOS * 0.75 + 1) / (PRIOR_PHOTOS + 4)
    assert expected.share == pytest.approx(share, rel=0.02)


def test_a_long_look_forgets_the_endpoint_and_what_was_long_ago() -> None:
    shares = ExitShares()
    for _ in range(2000):
        shares.add(SPLIT.cut, EXIT, True)
    for _ in range(1000):
        shares.add(SPLIT.cut, EXIT, False)
    expected = shares.expected(SPLIT.cut, replace(EXIT, share=0.0))
    assert expected is not None
    assert expected.share < 0.01


@pytest.mark.parametrize(
    "other",
    [replace(EXIT, version="dead"), replace(EXIT, classes=(1,)), None],
    ids=["another version", "other classes", "withdrawn"],
)
def test_what_was_seen_counts_for_one_version_and_its_classes(other: OptionExit | None) -> None:
    shares = ExitShares()
    for _ in range(50):
        shares.add(SPLIT.cut, EXIT, False)
    assert shares.expected(SPLIT.cut, other) == other
    if other is None:
        assert shares.expected(SPLIT.cut, EXIT) == EXIT
    else:
        shares.add(SPLIT.cut, other, True)
        expected = shares.expected(SPLIT.cut, other)
        assert expected is not None
        assert expected.seen == 1


def test_a_share_that_is_promised_and_not_there_is_found_out() -> None:
    """The endpoint promises three quarters. This device sees photos that the exit never answers."""
    decider = Decider(LinkFilter(20.0, 30.0), exploration=0.0)
    split = replace(SPLIT, device_ms=40)
    cuts = []
    for second in range(60):
        option = decider.plan((PHOTO, split), float(second)).option
        cuts.append(option.cut)
        if option.exit is not None:
            decider.asked(option.cut, option.exit, answered=False)
        own_ms = 40.0 if option.cut == split.cut else 5.0
        decider.ran(option.cut, 0.0, own_ms, float(second))
        decider.answered(option.nbytes, 34.0, 100.0, float(second))
    assert cuts[0] == split.cut
    assert set(cuts[-20:]) == {PHOTO.cut}


def test_a_released_share_that_is_far_too_high_is_soon_outweighed() -> None:
    """It is of the photos with an answer of the exit, and here are photos without."""
    shares = ExitShares()
    advised = replace(EXIT, share=0.9)
    for _ in range(10):
        shares.add(SPLIT.cut, advised, False)
    expected = shares.expected(SPLIT.cut, advised)
    assert expected is not None
    assert expected.share < 0.3
