"""A limited number of places, shared fairly between holders who want different numbers of them."""

from __future__ import annotations

from collections.abc import Iterable


def fair_share(wanted: Iterable[int], places: int) -> int:
    """The largest share s with sum(min(w, s)) <= ``places`` (max-min fairness).

    Whoever wants less than the share gets all that it wants, whatever the others want.
    """
    left = places
    ascending = sorted(wanted)
    for i, number in enumerate(ascending):
        share = left // (len(ascending) - i)
        if number > share:
            return share
        left -= number
    return ascending[-1] if ascending else 0
