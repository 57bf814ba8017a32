"""The cuts that this device can take now, with what they are expected to cost here."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from ..adaptive import Option
from ..schema import ON_DEVICE, OUTPUT, Cut, Recommendation
from .own_times import OwnTimes
from .splitclient import SplitClient

SERVER_DOWN: Final = "the server failed a moment ago"
"""Why a cut that needs the server is refused after a failure."""
_UNKNOWN_LOCAL_MS: Final = 1000.0
"""What the whole network here is taken to need, until it was measured."""


def device_options(
    client: SplitClient, advice: Recommendation | None, times: OwnTimes, *, server_down: bool
) -> list[Option]:
    """The options of a decision, at least one.

    Parameters:
        advice: the newest recommendation. ``None``, or one for another network, leaves the client's
            own cut, and the whole network here if the bundle has it.
        times: of this device.
        server_down: whether cuts that need the server are refused for now.
    """
    options: list[Option] = []
    manifest = client.manifest
    if advice is not None and (manifest is None or advice.network_hash == manifest.network_hash):
        expected_ms = times.expected_ms(advice.cuts)
        options = [
            Option(
                cut=row.cut,
                nbytes=row.nbytes,
                device_ms=expected_ms[row.cut],
                server_ms=row.server_ms,
                agreement=math.nan if row.agreement is None else row.agreement,
                refused="" if row.is_accurate else row.reason,
            )
            for row in advice.cuts
            if client.can_take(row.cut)
        ]
    options = options or _without_advice(client, times)
    if server_down and any(option.is_local for option in options):
        return [_without_server(option) for option in options]
    return options


def _without_advice(client: SplitClient, times: OwnTimes) -> list[Option]:
    options = [_unmeasured(client.cut, times, 0.0)]
    if client.cut.split_point != OUTPUT and client.can_take(ON_DEVICE):
        options.append(_unmeasured(ON_DEVICE, times, _UNKNOWN_LOCAL_MS))
    return options


def _unmeasured(cut: Cut, times: OwnTimes, unknown_ms: float) -> Option:
    own_ms = times.measured_ms(cut)
    return Option(cut, 0.0, unknown_ms if own_ms is None else own_ms, 0.0)


def _without_server(option: Option) -> Option:
    if option.is_local or option.refused:
        return option
    return replace(option, refused=SERVER_DOWN)
