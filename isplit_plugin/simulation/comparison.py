"""Every policy on one scenario, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from ..adaptive import Decider, Option
from .kernel import Device, PolicyFactory, Run, simulate
from .policies import Adaptive, Fixed, Oracle
from .scenario import Scenario, useful

ADAPTIVE: Final = "adaptive"
"""The policy that decides as the adaptive client does."""
ORACLE: Final = "oracle"
"""The policy that knows the link's future."""
_TRIES: Final = 1
"""Sets the random numbers of tries apart from those of arrivals and noise."""


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What one policy cost.

    Attributes:
        policy: a cut, "adaptive" or "oracle".
        mean_ms, p50_ms, p95_ms, p99_ms: of the latency, from a photo's arrival to its answer.
        missed: share of photos that missed the deadline; NaN without one.
        mean_bytes: sent for each photo.
        agreement: expected share of answers that equal the full network's; at least, with exits.
        hedged: share of photos that the device answered because the server was late.
        exited: share of photos that an exit answered.
        server_load: share of their time that the server's workers worked.
        cuts: share of photos for which each cut was chosen.
        latencies_ms: of every photo, in the order of their answers.
    """

    policy: str
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    missed: float
    mean_bytes: float
    agreement: float
    hedged: float
    server_load: float
    cuts: dict[str, float]
    latencies_ms: tuple[float, ...]
    exited: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types, without the single latencies. NaN becomes null."""
        raw = asdict(self)
        del raw["latencies_ms"]
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in raw.items()}


def compare(
    scenario: Scenario,
    *,
    oracle: bool = True,
    progress: Callable[[str], None] = lambda _policy: None,
) -> list[PolicyResult]:
    """Run each fixed cut that may be worth it, the adaptive client, and an oracle.

    On UDP (``scenario.loss``) the fixed cuts alone.

    Parameters:
        oracle: whether to run the policy that knows the link's future.
        progress: called with the name of each policy before it runs.
    """
    results = []
    for name, policy in _policies(scenario, oracle=oracle):
        progress(name)
        results.append(summary(name, scenario, simulate(scenario, policy)))
    return results


def best_fixed(results: list[PolicyResult]) -> PolicyResult:
    """The fixed cut with the fewest misses, then the lowest mean latency."""
    fixed = [result for result in results if result.policy not in (ADAPTIVE, ORACLE)]
    return min(fixed, key=lambda r: (0.0 if math.isnan(r.missed) else r.missed, r.mean_ms))


def undominated(results: Sequence[PolicyResult]) -> list[PolicyResult]:
    """Those that no other is at least as fast as with more agreement, the fastest first."""
    best: list[PolicyResult] = []
    for result in sorted(results, key=lambda r: (r.mean_ms, -r.agreement)):
        if not best or result.agreement > best[-1].agreement:
            best.append(result)
    return best


def summary(name: str, scenario: Scenario, run: Run) -> PolicyResult:
    """The figures of one run."""
    latencies = np.array([photo.latency_ms for photo in run.photos])
    p50, p95, p99 = np.quantile(latencies, [0.5, 0.95, 0.99])
    chosen = [str(photo.cut) for photo in run.photos]
    missed = math.nan
    if scenario.deadline_ms is not None:
        missed = float(np.mean(latencies > scenario.deadline_ms))
    return PolicyResult(
        policy=name,
        mean_ms=float(latencies.mean()),
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        missed=missed,
        mean_bytes=float(np.mean([photo.nbytes for photo in run.photos])),
        agreement=float(np.mean([photo.agreement for photo in run.photos])),
        hedged=float(np.mean([photo.hedged for photo in run.photos])),
        server_load=run.busy_ms / (run.span_ms * scenario.workers),
        cuts={cut: chosen.count(cut) / len(chosen) for cut in sorted(set(chosen))},
        latencies_ms=tuple(latencies.tolist()),
        exited=float(np.mean([photo.exited for photo in run.photos])),
    )


def adaptive_policy(scenario: Scenario, *, repeat: int = 0) -> PolicyFactory:
    """Makes the adaptive client of each device, with tries of its own.

    ``repeat``: another number gives other tries.
    """
    advised = scenario.advised or useful(scenario.options)

    def make(device: Device) -> Adaptive:
        random = np.random.default_rng([scenario.seed, device.number, _TRIES, repeat])
        return Adaptive(advised, Decider(exploration=scenario.exploration), random.random)

    return make


def _policies(scenario: Scenario, *, oracle: bool) -> Iterator[tuple[str, PolicyFactory]]:
    options = useful(scenario.options, by_agreement=scenario.loss is not None)
    for option in options:
        yield str(option.cut), _fixed(option)
    if scenario.loss is not None:
        return  # the adaptive client speaks TCP
    yield ADAPTIVE, adaptive_policy(scenario)
    if oracle:
        yield (
            ORACLE,
            lambda device: Oracle(options, scenario.uplink, scenario.rtt_ms, device.offset_ms),
        )


def _fixed(option: Option) -> PolicyFactory:
    return lambda _device: Fixed(option.cut)
