"""The cuts that this device can take, as the server advises them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from ..adaptive import Option, OptionExit, exit_refusal
from ..schema import ON_DEVICE, Cut, CutExit, RatedCut, Recommendation
from .exits import DeviceExits
from .splitclient import SplitClient

_RAW_SCORES: Final = "answers with raw_scores come from the server"
_UNKNOWN_LOCAL_MS: Final = 1000.0
"""What the whole network here is taken to need, until it was advised or measured."""
_UNKNOWN_LOCAL_DOUBT: Final = 20.0
"""The factor by which that guess may be wrong."""


def advised_options(
    client: SplitClient, advice: Recommendation | None, tolerance: float
) -> list[Option]:
    """The options of a decision, at least one, with the advised times of the device.

    The whole network here is among them if the bundle has it, whether or not the advice lists it:
    its answers are what accuracy is measured by. Without advice, or with one for another network,
    the client's own cut is the other one.

    ``tolerance``: the share of answers that may differ from the full network's, exits included.
    """
    manifest = client.manifest
    options: dict[Cut, Option] = {}
    if advice is not None and (manifest is None or advice.network_hash == manifest.network_hash):
        for row in advice.cuts:
            usual = options.get(row.cut)
            # Where the advice contradicts itself, the stricter of both holds.
            if (
                row.nbytes >= 0
                and client.can_take(row.cut)
                and (usual is None or not usual.refused)
            ):
                options[row.cut] = _advised(row)
    if not options:
        options[client.cut] = Option(client.cut, 0.0, 0.0, 0.0)
    if not any(option.is_local for option in options.values()) and client.can_take(ON_DEVICE):
        options[ON_DEVICE] = Option(
            ON_DEVICE, 0.0, _UNKNOWN_LOCAL_MS, 0.0, doubt=_UNKNOWN_LOCAL_DOUBT
        )
    if client.exits is None:
        return list(options.values())
    advised = () if advice is None else advice.exits
    with_exits = (_with_exit(o, client.exits, advised, tolerance) for o in options.values())
    return [
        _watching(option, _RAW_SCORES) if client.raw_scores else option for option in with_exits
    ]


def _with_exit(
    option: Option, exits: DeviceExits, advised: Iterable[CutExit], tolerance: float
) -> Option:
    released = exits.released(option.cut)
    if released is None or option.cut.is_refining or option.is_local:
        return option
    share = next(
        (row.share for row in advised if (row.cut, row.version) == (option.cut, released.version)),
        0.0,
    )
    exit_ = OptionExit(
        version=released.version,
        classes=released.classes,
        share=share,
        tolerance=released.tolerance,
        audit_share=released.audit_share,
        refused=exit_refusal(option.agreement, released.tolerance, tolerance),
    )
    return replace(option, exit=exit_)


def _watching(option: Option, reason: str) -> Option:
    """The option, whose exit may not answer."""
    if option.exit is None:
        return option
    return replace(option, exit=replace(option.exit, refused=reason))


def _advised(row: RatedCut) -> Option:
    return Option(
        cut=row.cut,
        nbytes=row.nbytes,
        device_ms=_possible(row.device_ms),
        server_ms=_possible(row.server_ms),
        agreement=math.nan if row.agreement is None else row.agreement,
        refused="" if row.is_accurate else row.reason or row.verdict,
        round_trips=row.round_trips,
    )


def _possible(ms: float) -> float:
    """The time; NaN for one that cannot be."""
    return ms if ms >= 0 else math.nan
