"""Probes as an optional part of tail, endpoint and packaging.

See :mod:`isplit_plugin.serving.optional`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..device_tokens import TokenVerifier
from ..schema import Manifest
from ..serving.settings import EndpointSettings, TailSettings

if TYPE_CHECKING:
    from ..network import CapturedNetwork
    from ..serving.optional import EndpointPart, TailContext, TailPart
    from ..traffic import Store


def tail_part(context: TailContext) -> TailPart:
    """Probes in a tail worker."""
    from .tail import Probes

    return Probes(context)


def endpoint_part(settings: EndpointSettings, verifier: TokenVerifier) -> EndpointPart:
    """Probe reports at the endpoint."""
    return _ProbeReports(settings.probes.per_hour, verifier)


def package_warnings(
    net: CapturedNetwork, manifest: Manifest, settings: TailSettings, *, pt2: bool
) -> tuple[str, ...]:
    """Where no probe will be answered. Raises ProbeError where none will be anywhere."""
    from .points import probe_warnings

    return probe_warnings(net, manifest, settings.probes, pt2=pt2)


class _ProbeReports:
    field = "probe"

    def __init__(self, per_hour: int, verifier: TokenVerifier) -> None:
        self._per_hour = per_hour
        self._verifier = verifier

    def answer(self, store: Store, value: object) -> dict[str, Any]:
        from .endpoint import take_report

        return take_report(store, self._verifier, value, per_hour=self._per_hour)
