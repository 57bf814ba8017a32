"""Probes as an optional part of tail, endpoint and packaging.

See :mod:`isplit_plugin.serving.optional`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def endpoint_part(settings: EndpointSettings, secret: bytes) -> EndpointPart:
    """Probe reports at the endpoint."""
    return _ProbeReports(settings.probes.per_hour, secret)


def package_warnings(
    net: CapturedNetwork, manifest: Manifest, settings: TailSettings, *, pt2: bool
) -> tuple[str, ...]:
    """Where no probe will be answered. Raises ProbeError where none will be anywhere."""
    from .points import probe_warnings

    return probe_warnings(net, manifest, settings.probes, pt2=pt2)


class _ProbeReports:
    field = "probe"

    def __init__(self, per_hour: int, secret: bytes) -> None:
        self._per_hour = per_hour
        self._secret = secret

    def answer(self, store: Store, value: object) -> dict[str, Any]:
        from .endpoint import take_report

        return take_report(store, self._secret, value, per_hour=self._per_hour)
