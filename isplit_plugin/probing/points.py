"""The split points where probes are answered.

Where the network behind the cut is linear they are not, because the gradient would be a row of its
weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ProbeError
from ..schema import INPUT, Manifest
from ..serving.settings import ProbeSettings

if TYPE_CHECKING:
    from ..network import CapturedNetwork


def why_no_probe(net: CapturedNetwork, split_point: str) -> str | None:
    """Why probes are never answered at a split point; ``None`` where they may be."""
    if split_point == INPUT:
        return "at 'input' the server computes the whole curve by itself"
    if not any(split_point in point.names for point in net.split_points):
        return f"{split_point!r} is a bottleneck: its importance is another network's"
    if net.is_linear_after(split_point):
        return (
            f"behind {split_point!r} the network is linear: "
            "its gradient would be a row of the weights"
        )
    return None


def probe_warnings(
    net: CapturedNetwork, manifest: Manifest, settings: ProbeSettings, *, pt2: bool
) -> tuple[str, ...]:
    """Deployed split points without probes, and missing heads, as warnings for the operator.

    Raises ProbeError if probes are on and no deployed split point can have them.
    """
    if not settings.enabled:
        return ()
    reasons = {name: why_no_probe(net, name) for name in manifest.deployed}
    if all(reasons.values()):
        raise ProbeError(
            "isplit.probes.enabled: no deployed split point can have probes; "
            f"{'; '.join(map(str, reasons.values()))}"
        )
    warnings = [f"no probes at {name!r}: {why}" for name, why in reasons.items() if why]
    if not pt2:
        warnings.append(
            "probes are on, but no torch heads are packaged (pt2): "
            "no device with this bundle can probe"
        )
    return tuple(warnings)
