"""Optional parts of the workers, such as probes: loaded when a setting turns them on, absent
otherwise.

A part is a module with up to three functions: ``tail_part``, ``endpoint_part`` and
``package_warnings``. Tail, endpoint and packaging know a part by the protocols below alone and
never import it by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..device_tokens import TokenVerifier
from ..schema import Manifest
from .settings import EndpointSettings, TailSettings

if TYPE_CHECKING:
    import torch

    from ..network import CapturedNetwork
    from ..traffic import Store
    from ..wire import TailRequest, TailResponse
    from .tail.request import TailJob

PROBES: Final = "isplit_plugin.probing.parts"


@dataclass(frozen=True, slots=True, eq=False)
class TailContext:
    """What a part may use of a tail worker. ``secret``: the operator's, ``None`` without one."""

    settings: TailSettings
    manifest: Manifest
    net: CapturedNetwork
    secret: bytes | None


class TailPart(Protocol):
    """A part that answers some requests itself and may add to the answers of others."""

    name: str
    metric: str
    """The counter of its answers, by split point."""

    def takes(self, request: TailRequest) -> bool:
        """Whether the part answers this request instead of a prediction."""

    def check(self, request: TailRequest) -> None:
        """Refuse a request before its activation is decoded. Raises an IsplitError."""

    def answer(self, job: TailJob, values: torch.Tensor) -> tuple[bytes, int | None]:
        """The body, and the length of its JSON. ``values`` (N, *shape): the activation."""

    def amend(self, job: TailJob, response: TailResponse) -> TailResponse:
        """The answer to a prediction, with what the part adds to it."""

    def describe(self) -> dict[str, Any]:
        """A status from memory alone."""

    def close(self) -> None:
        """Stop what runs in the background."""


class EndpointPart(Protocol):
    """A part that answers the JSON bodies which have its field."""

    field: str

    def answer(self, store: Store, value: object) -> dict[str, Any]:
        """The JSON answer. ``value``: what the body has under the field. Raises an IsplitError."""


def tail_parts(context: TailContext) -> tuple[TailPart, ...]:
    """The parts that are on in a tail worker."""
    if not context.settings.probes.enabled:
        return ()
    return (import_module(PROBES).tail_part(context),)


def endpoint_parts(
    settings: EndpointSettings, verifier: TokenVerifier | None
) -> Mapping[str, EndpointPart]:
    """The parts that are on in the endpoint, by field. Probes need the operator's secret."""
    if verifier is None:
        return {}
    part: EndpointPart = import_module(PROBES).endpoint_part(settings, verifier)
    return {part.field: part}


def package_warnings(
    net: CapturedNetwork, manifest: Manifest, settings: TailSettings, *, pt2: bool
) -> tuple[str, ...]:
    """What an operator who turns parts on should know.

    Raises an IsplitError where one cannot work.
    """
    if not settings.probes.enabled:
        return ()
    warnings: tuple[str, ...] = import_module(PROBES).package_warnings(
        net, manifest, settings, pt2=pt2
    )
    return warnings
