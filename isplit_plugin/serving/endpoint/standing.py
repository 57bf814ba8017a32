"""Answers that have a standing pick: worked out by :mod:`isplit_plugin.advice`, kept in the store.

Whichever worker is asked first writes a change, over the state that it was worked out from. All
others read it. Where the store takes no writes, the answer is the pick in force.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from ...advice import Query, StandingAnswer, SwitchingPolicy, answer_standing
from ...errors import StoreError
from ...profile import Profile
from ...schema import Manifest, Recommendation
from ...traffic import StandingSnapshot, Store
from ..replies import one_line

_LOGGER = logging.getLogger(__name__)
_TRIES: Final = 5


def standing_answer(
    store: Store,
    manifest: Manifest,
    profile: Profile | None,
    query: Query,
    policy: SwitchingPolicy,
    *,
    snapshot: StandingSnapshot | None = None,
) -> Recommendation:
    """Answer, and write the change of the standing pick that follows from the store's contents.

    ``snapshot``: what was read of the store already. It is read again after a change was written,
    here or by others. Raises what :func:`isplit_plugin.advice.answer_standing` and the store raise.
    """
    for _ in range(_TRIES):
        if snapshot is None:
            snapshot = store.standing_snapshot(manifest, query.group)
        answer = _answer(store, manifest, profile, query, policy, snapshot)
        if not answer.changes or answer.state is None or not _may_stand(snapshot, query):
            return answer.recommendation
        try:
            store.put_standing(manifest, query.group, snapshot.state, answer.state, answer.changes)
        except StoreError as error:
            _LOGGER.warning("isplit: a change of the pick waits: %s", one_line(error.message))
            frozen = replace(policy, frozen="the store takes no writes now")
            return _answer(store, manifest, profile, query, frozen, snapshot).recommendation
        # Read again, whoever wrote: the answer's revision is that of the store after the write.
        snapshot = None
    raise StoreError("the standing pick changes faster than it can be read")


def _answer(  # noqa: PLR0917
    store: Store,
    manifest: Manifest,
    profile: Profile | None,
    query: Query,
    policy: SwitchingPolicy,
    snapshot: StandingSnapshot,
) -> StandingAnswer:
    return answer_standing(
        manifest,
        profile,
        snapshot.live,
        query,
        snapshot.state,
        half_life_s=store.half_life_s,
        policy=policy,
    )


def _may_stand(snapshot: StandingSnapshot, query: Query) -> bool:
    """A group without traffic gets no state of its own: anybody may name groups, and states take
    room.
    """
    return snapshot.live.observations > 0 or query.group == Query().group
