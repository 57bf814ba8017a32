"""Answers that are held: worked out by :mod:`isplit_plugin.advice.standing`, kept in force in the store.

Whichever worker is asked first writes a change down, over the state that it was worked out from; all others read it.
Where the store takes no writes, the answer is what is in force.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from ...advice import Policy, Query, Settlement, settle
from ...errors import StoreError
from ...profile import Profile
from ...schema import Manifest, Recommendation
from ...traffic import Store
from ...traffic.store import StandingSnapshot
from ..replies import one_line

_LOGGER = logging.getLogger(__name__)
_TRIES: Final = 5


def standing_answer(
    store: Store,
    manifest: Manifest,
    profile: Profile | None,
    query: Query,
    policy: Policy,
    *,
    known: StandingSnapshot | None = None,
) -> Recommendation:
    """Answer, and put into force what follows from the store's contents. Raises as advice.settle and Store do.

    ``known``: what was read of the store already; it is read again where others changed it since.
    """
    for _ in range(_TRIES):
        held, known = known or store.held(manifest, query.group), None

        def settled(policy: Policy, held: StandingSnapshot = held) -> Settlement:
            live, pairs, half_life = held.live, held.pairs, store.half_life_s
            return settle(
                manifest,
                profile,
                live,
                query,
                held.standing,
                pairs=pairs,
                half_life_s=half_life,
                policy=policy,
            )

        found = settled(policy)
        if (
            not found.changes
            or found.standing is None
            or not _may_stand(held.live.observations, query)
        ):
            return found.recommendation
        try:
            if store.put_standing(
                manifest, query.group, held.standing, found.standing, found.changes
            ):
                return found.recommendation
        except StoreError as error:
            _LOGGER.warning("isplit: a change of picks waits: %s", one_line(error.message))
            return settled(replace(policy, frozen="the store takes no writes now")).recommendation
    raise StoreError("the picks in force change faster than they can be read")


def _may_stand(observations: int, query: Query) -> bool:
    """A group that nobody is in gets no state of its own: names are free, states are not."""
    return observations > 0 or query.group == Query().group
