"""The state of a version: groups are released, classes watched, and both withdrawn."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from isplit_plugin.errors import StoreError
from isplit_plugin.exits import LEAST_SHARE
from isplit_plugin.traffic import ExitClass, ExitCount, ExitState, shadow_counts

STRICT, LOOSE = 12, 4


def new(classes: int) -> ExitState:
    return ExitState(1, 0.01, {class_id: ExitClass() for class_id in range(classes)})


def shadow(class_id: int, agreeing: int, disagreeing: int = 0, bin_: int = STRICT) -> ExitCount:
    return ExitCount("shadow", class_id, bin_, agreeing + disagreeing, agreeing)


def audits(class_id: int, agreeing: int, disagreeing: int = 0) -> ExitCount:
    return ExitCount("audit", class_id, STRICT, agreeing + disagreeing, agreeing)


def after(state: ExitState, *counts: ExitCount, now: float = 1.0) -> ExitState:
    return state.after(counts, alpha=0.03, now=now)


def test_classes_are_released_together_once_each_has_a_few_answers_of_its_own() -> None:
    counts = [shadow(class_id, 100) for class_id in range(5)]
    state = after(new(6), *counts, shadow(5, 29))
    assert set(state.released()) == set(range(5))
    later = after(state, *counts, shadow(5, 30), now=2.0)
    assert set(later.released()) == set(range(6))
    assert (later.classes[0].since, later.classes[5].since) == (1.0, 2.0)
    assert ExitState.from_json(later.to_json()) == later


def test_the_share_counts_photos_that_are_not_sent_any_more() -> None:
    def counts(watched: int) -> list[ExitCount]:
        loose = [shadow(class_id, 0, watched, bin_=0) for class_id in range(2)]
        return [shadow(0, 500), shadow(1, 500), *loose]

    state = after(new(2), *counts(100))
    assert set(state.released()) == {0, 1}
    assert state.share(shadow_counts(counts(100))) == 1000 / 1200
    # From now on photos in the loose bin are sent, and of the others the audited ones.
    later = after(state, *counts(500), audits(0, 1000), audits(1, 1000))
    assert sum(each.audits.exits for each in later.classes.values()) == 2000
    assert later.share(shadow_counts(counts(500))) == (1000 + 2000) / (2000 + 2000)
    assert state.share({}) == 0


def test_a_proven_group_stays_proven_whatever_shadow_answers_follow() -> None:
    state = after(new(2), shadow(0, 400), shadow(1, 400))
    assert set(after(state, shadow(0, 400, 40), shadow(1, 400, 40)).released()) == {0, 1}


def test_a_group_that_answers_more_photos_replaces_another() -> None:
    """Class 2 is fine where margins are large, and holds up the others where they are small."""
    strict = [shadow(class_id, 600) for class_id in range(3)]
    bad = [shadow(2, 300, 300, bin_=9)]
    loose = [shadow(0, 3000, bin_=LOOSE), shadow(1, 3000, bin_=LOOSE)]
    first = after(new(3), *strict, *bad)
    assert {each.bin for each in first.released().values()} == {10}
    assert set(first.released()) == {0, 1, 2}
    far = after(first, *strict, *bad, *loose)
    assert far.group is not None
    assert far.group.class_ids == {0, 1}
    assert set(far.released()) == {0, 1}
    # One that would answer hardly more does not.
    kept = after(far, *strict, *bad, *loose, shadow(0, 3100, bin_=LOOSE - 1))
    assert kept.group == far.group


def test_a_withdrawn_class_keeps_no_group_in_force() -> None:
    """What class 2 answered before it was withdrawn is no photo that its group answers now."""
    strict = [shadow(class_id, 600) for class_id in range(3)]
    bad = [shadow(2, 300, 300, bin_=9)]
    first = after(new(3), *strict, *bad)
    good = audits(2, 20_000)
    first = after(first, *strict, *bad, good)
    withdrawn = after(first, *strict, *bad, audits(2, 20_000, 6))
    assert set(withdrawn.released()) == {0, 1}
    loose = [shadow(0, 500, bin_=LOOSE), shadow(1, 500, bin_=LOOSE)]
    far = after(withdrawn, *strict, *bad, *loose, audits(2, 20_000, 6))
    assert far.group is not None
    assert far.group.class_ids == {0, 1}
    assert far.released()[0].bin < withdrawn.released()[0].bin
    assert set(far.released()) == {0, 1}


def test_audits_withdraw_a_class_by_itself() -> None:
    counts = [shadow(class_id, 200) for class_id in range(4)]
    state = after(new(4), *counts)
    good = [audits(class_id, 2000) for class_id in range(3)]
    state = after(state, *counts, *good)
    state = after(state, *counts, *good, audits(3, 20, 6))
    assert set(state.released()) == {0, 1, 2}
    assert not state.is_withdrawn


def test_a_class_that_drifts_alone_leaves_the_others() -> None:
    """Also where no other class comes, and audits come one by one."""
    counts = [shadow(class_id, 200) for class_id in range(4)]
    state = after(new(4), *counts)
    good = [audits(class_id, 50) for class_id in range(3)]
    state = after(state, *counts, *good)
    for number in range(1, 20):
        state = after(state, *counts, *good, audits(3, number, number))
    assert set(state.released()) == {0, 1, 2}


def test_audits_of_all_classes_together_withdraw_all() -> None:
    """One disagreement in each of eight classes says little of any, and enough of all."""
    counts = [shadow(class_id, 100) for class_id in range(8)]
    state = after(new(8), *counts)
    assert len(state.released()) == 8
    state = after(state, *counts, *[audits(class_id, 1, 1) for class_id in range(8)])
    assert not any(of_class.audits.withdrawn for of_class in state.classes.values())
    assert state.is_withdrawn
    assert state.released() == {}


def test_the_share_of_audits_falls_with_the_exits_of_all_classes() -> None:
    counts = [shadow(class_id, 100) for class_id in range(8)]
    state = after(new(8), *counts)
    assert {each.audit for each in state.released().values()} == {1.0}
    many = [audits(class_id, 700) for class_id in range(7)]
    shares = {c: each.audit for c, each in after(state, *counts, *many).released().items()}
    assert shares.pop(7) == 1.0  # its own first exits are all audited
    assert set(shares.values()) == {1000 / 4900}


def test_the_share_of_audits_falls_with_the_own_exits_of_a_class_that_is_promised_by_itself() -> (
    None
):
    counts = [shadow(class_id, 600) for class_id in range(3)]
    state = after(replace(new(3), promise="each"), *counts)
    assert {each.audit for each in state.released().values()} == {1.0}
    several = [audits(0, 150), audits(1, 4000), audits(2, 100_000)]
    shares = {c: each.audit for c, each in after(state, *counts, *several).released().items()}
    assert shares == {0: 1.0, 1: 1000 / 4000, 2: LEAST_SHARE}


def test_each_class_is_proven_by_itself_where_that_is_promised() -> None:
    state = replace(new(3), promise="each")
    # Together they are far enough; of each, 459 are needed.
    state = after(state, *[shadow(class_id, 300) for class_id in range(3)])
    assert state.released() == {}
    assert len(after(new(3), *[shadow(c, 300) for c in range(3)]).released()) == 3
    some = [shadow(0, 600, bin_=STRICT), shadow(1, 600, bin_=LOOSE + 5), shadow(2, 300)]
    state = after(state, *some)
    assert set(state.released()) == {0, 1}
    assert state.classes[0].bin is not None
    assert state.group is None
    # Released once, a class stays so in its lowest bin, and audits withdraw it alone.
    later = after(state, *some, shadow(0, 0, 50, bin_=LOOSE))
    assert later.released()[0].bin == state.released()[0].bin
    later = after(later, *some, *[audits(class_id, 1, 1) for class_id in range(2)])
    assert set(later.released()) == {0, 1}
    later = after(later, *some, audits(0, 1, 9), audits(1, 1, 1))
    assert set(later.released()) == {1}
    assert ExitState.from_json(later.to_json()) == later


def test_a_state_without_a_promise_keeps_it_together() -> None:
    raw = json.loads(replace(new(2), promise="each").to_json())
    del raw["promise"]
    assert ExitState.from_json(json.dumps(raw)) == new(2)


@pytest.mark.parametrize("text", ["", "{}", '{"version": 1, "classes": {}, "group": [1]}', "[]"])
def test_a_damaged_state_is_told(text: str) -> None:
    with pytest.raises(StoreError, match="state of an exit"):
        ExitState.from_json(text)
