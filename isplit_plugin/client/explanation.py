"""Why a photo goes the way it goes, for people and programs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..adaptive import Decision, LinkEstimate, OptionExit
from ..errors import IsplitError
from ..schema import Recommendation


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a photo would go the way it would go now.

    Attributes:
        decision: every cut with its expected milliseconds, the share of photos that its exit
            answers, and why it would not be taken.
        link: what is known of the link.
        advice: the newest recommendation; ``None`` before the first.
        server_down_s: seconds until the server is tried again after a failure; 0 while it is up.
        failure: why the last request failed; ``None`` if it was answered.
        queue_ms: how long a request is expected to wait at the server.
        tries: photos so far that went another way than the best, to measure it.
    """

    decision: Decision
    link: LinkEstimate
    advice: Recommendation | None
    server_down_s: float
    queue_ms: float = 0.0
    tries: int = 0
    failure: IsplitError | None = None

    def __str__(self) -> str:
        lines = [f"link: {self.link}; a request waits {self.queue_ms:.3g} ms at the server"]
        if self.server_down_s > 0:
            lines.append(f"the server failed; it is tried again in {self.server_down_s:.1f} s")
        unmeasured: dict[str, list[str]] = {}
        for row in sorted(self.decision.options, key=lambda row: _last_if_nan(row.expected_ms)):
            option = row.option
            is_taken = row.cut == self.decision.cut
            if option.refused and math.isnan(option.agreement) and not is_taken:
                # Its bytes and times are guesses, too.
                unmeasured.setdefault(option.refused, []).append(str(row.cut))
                continue
            times = f"{row.expected_ms:8.1f} ms  {option.expected_bytes:8.0f} B"
            parts = f"{option.device_ms:.3g} here"
            if not option.is_local:
                parts += f" + {row.network_ms:.3g} network + {option.at_server_ms:.3g} server"
            lines.append(f"{row.cut!s:<32} {times}  {parts}  {row.reason}{_exit_text(option.exit)}")
        for reason, cuts in unmeasured.items():
            lines.append(f"not taken ({reason}): {', '.join(cuts)}")
        return "\n".join(lines)


def _exit_text(exit_: OptionExit | None) -> str:
    """What the exit of a cut does; empty without one."""
    if exit_ is None:
        return ""
    if exit_.refused:
        return f"; its exit does not answer: {exit_.refused}"
    if not exit_.seen:
        return f"; its exit answers at most {exit_.share:.0%} of the fleet's photos"
    return f"; its exit answers {exit_.share:.0%} of {exit_.seen:.0f} photos here"


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value
