"""Exits in a simulation: what if devices answered a share of their photos by themselves?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from ..adaptive import Option, OptionExit, exit_refusal
from ..errors import QueryError, UnknownSplitPointError
from ..exits import LEAST_SHARE, TOLERANCE
from ..schema import INPUT

ASSUMED: Final = "assumed"
"""The version of an exit that no traffic has made."""


def with_exits(
    options: Sequence[Option],
    shares: Mapping[str, float],
    *,
    tolerance: float,
    exit_tolerance: float = TOLERANCE,
    audit_share: float = LEAST_SHARE,
) -> tuple[Option, ...]:
    """The options with an exit at some cuts.

    Asking an exit takes some tenths of a millisecond, which are left out.

    Parameters:
        shares: by cut, or by split point for all of its cuts: the share of photos that the exit
            answers.
        tolerance: the share of answers that may differ from the full network's.
        exit_tolerance: the share of the exits' answers that may differ from the tail's.
        audit_share: the share of the exits' photos that is sent afterwards.

    Raises:
        QueryError: a share or tolerance is out of range.
        UnknownSplitPointError: no option is at this cut or split point.
    """
    if not 0 < exit_tolerance < 1:
        raise QueryError(
            f"exit_tolerance: expected above 0 and below 1, got {exit_tolerance!r}",
            field="exit_tolerance",
        )
    able = [option for option in options if _can_exit(option)]
    names = {name for option in able for name in (str(option.cut), option.cut.split_point)}
    for name, share in shares.items():
        if name not in names:
            raise UnknownSplitPointError.of(name, sorted(names))
        if not 0 <= share <= 1:
            raise QueryError(
                f"the share of the exit at {name}: expected 0 to 1, got {share!r}", field="share"
            )

    def with_exit(option: Option) -> Option:
        share = shares.get(str(option.cut), shares.get(option.cut.split_point))
        if share is None or not _can_exit(option):
            return option
        refused = exit_refusal(option.agreement, exit_tolerance, tolerance)
        exit_ = OptionExit(ASSUMED, (), share, exit_tolerance, audit_share, refused)
        return replace(option, exit=exit_)

    return tuple(map(with_exit, options))


def _can_exit(option: Option) -> bool:
    """Whether there may be an exit: an activation is sent, once."""
    local = option.is_local or option.cut.split_point == INPUT
    return not local and not option.cut.is_refining
