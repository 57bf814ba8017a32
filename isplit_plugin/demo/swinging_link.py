"""What each choice costs one device on a link that swings, by the simulator on the demo's profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..profile import Profile
from ..report import Page, latency_figure
from ..schema import INPUT, OUTPUT, Manifest
from ..simulation import (
    ADAPTIVE,
    ORACLE,
    PolicyResult,
    Scenario,
    best_fixed,
    compare,
    options_of,
    swinging_trace,
)
from ..terminal import kilobytes, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEAN_MBPS: Final = 2.0
RTT_MS: Final = 40.0
DEADLINE_MS: Final = 1000.0
PHOTOS: Final = 200
_HEADER: Final = ("choice", "mean ms", "p95 ms", "missed", "bytes")


@dataclass(frozen=True)
class SwingingLink:
    """One device on one made-up trace, simulated with every choice.

    Attributes:
        results: of the fixed cuts, the adaptive client and the oracle.
    """

    scenario: Scenario
    results: tuple[PolicyResult, ...]

    @property
    def sentence(self) -> str:
        """The link, the device and the photos in words."""
        return (
            f"Simulated from the profile: a device as slow as in the phases, a photo a second, "
            f"{self.scenario.uplink.describe()}, {self.scenario.rtt_ms:g} ms round trip, answers "
            f"wanted within {self.scenario.deadline_ms:g} ms."
        )

    @property
    def conclusion(self) -> str:
        """How the adaptive client fares, and what it takes."""
        adaptive = next(result for result in self.results if result.policy == ADAPTIVE)
        best = best_fixed(list(self.results))
        shares = sorted(adaptive.cuts.items(), key=lambda item: -item[1])
        taken = ", ".join(f"{cut} {share:.0%}" for cut, share in shares[:4])
        return (
            f"The adaptive client misses {adaptive.missed:.1%} and takes {adaptive.mean_ms:.0f} ms "
            f"on average; {best.policy}, the best fixed cut with hindsight, misses "
            f"{best.missed:.1%} and takes {best.mean_ms:.0f} ms. It took {taken}."
        )

    def text(self) -> str:
        """The table for people, with a sentence before and after it."""
        rows = [
            (
                result.policy,
                f"{result.mean_ms:.0f}",
                f"{result.p95_ms:.0f}",
                f"{result.missed:.1%}",
                kilobytes(result.mean_bytes),
            )
            for result in self.results
        ]
        return f"{self.sentence}\n{table(_HEADER, rows)}\n{self.conclusion}"

    def figure(self) -> Figure:
        """The share of photos that each choice answers within each time."""
        return latency_figure(self.results, self.scenario.deadline_ms)

    def add_to(self, page: Page) -> None:
        """Add a section to the report."""
        page.section("One device on a link that swings")
        page.text(self.sentence, self.conclusion)
        page.figure(
            self.figure(),
            alt="Share of photos that each choice answers within a time",
            caption="Latency counts from a photo's arrival, waiting for earlier photos included. "
            f"The {ORACLE} knows the link's future.",
        )
        page.table(
            _HEADER,
            [
                (
                    result.policy,
                    result.mean_ms,
                    result.p95_ms,
                    result.missed,
                    round(result.mean_bytes),
                )
                for result in self.results
            ],
        )


def on_a_swinging_link(
    measured: Profile, manifest: Manifest, *, slowdown: float, seed: int
) -> SwingingLink:
    """Simulate the deployed cuts on a device that is ``slowdown`` times slower.

    Raises QueryError where no deployed cut is accurate enough.
    """
    deployed = {INPUT, OUTPUT, *manifest.deployed}
    options = tuple(
        option
        for option in options_of(measured, slowdown=slowdown)
        if option.cut.split_point in deployed
    )
    scenario = Scenario(
        options,
        swinging_trace(seed, mean_mbps=MEAN_MBPS),
        rtt_ms=RTT_MS,
        deadline_ms=DEADLINE_MS,
        rate=1.0,
        photos=PHOTOS,
        seed=seed,
    )
    return SwingingLink(scenario, tuple(compare(scenario)))
