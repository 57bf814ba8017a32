"""Where probes make sense: not where the network behind the cut is linear, for there a gradient is a row of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ProbeError
from ..schema import INPUT, Manifest
from ..serving.settings import ProbeSettings

if TYPE_CHECKING:
    from ..network import CapturedNetwork


def why_no_probe(net: CapturedNetwork, split_point: str) -> str | None:
    """Why probes are never answered at a cut, in words; ``None`` where they may be."""
    if split_point == INPUT:
        return "at 'input' the server computes the whole curve by itself"
    if not any(split_point in point.names for point in net.split_points):
        return f"{split_point!r} is a bottleneck: its importance is another network's"
    if net.is_linear_after(split_point):
        return f"behind {split_point!r} the network is linear: its gradient would be a row of the weights"
    return None


def probe_warnings(
    net: CapturedNetwork, manifest: Manifest, settings: ProbeSettings, *, pt2: bool
) -> tuple[str, ...]:
    """What an operator who turns probes on should know. Raises ProbeError where no deployed point can have them."""
    if not settings.enabled:
        return ()
    found = {name: why_no_probe(net, name) for name in manifest.deployed}
    if all(found.values()):
        raise ProbeError(
            f"isplit.probes.enabled: no deployed split point can have them; {'; '.join(map(str, found.values()))}"
        )
    warnings = [f"no probes at {name!r}: {why}" for name, why in found.items() if why]
    if not pt2:
        warnings.append(
            "probes are on, but no torch heads are packaged (pt2): no device of this bundle can probe"
        )
    return tuple(warnings)
