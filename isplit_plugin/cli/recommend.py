"""``isplit recommend``: read the recommendation endpoint."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Final

from ..errors import QueryError
from ..schema import INPUT, OUTPUT, Cut
from . import common

if TYPE_CHECKING:
    from ..schema import RatedCut, Recommendation, StandingPick

HELP: Final = "ask where to cut now, and where a bottleneck is worth training"
DESCRIPTION: Final = """\
Ask the endpoint `isplit` two questions about a model:
  use         which deployed cut a device should use now, from measured agreement with the full network, bytes
              and predicted latency; sending the JPEG and staying on the device are among the cuts
  candidates  where a trained bottleneck is worth placing, ranked by the class-conditional CUI curve
"""
EPILOG: Final = """\
examples:
  isplit recommend resnet50 --token-file key_file.json
  isplit recommend resnet50 --classes 281,282 --bandwidth-mbps 2 --rtt-ms 60 --token-file key_file.json
  isplit recommend resnet50 --max-bytes 20000 --accuracy-tolerance 0.02 --json
The same in curl: GET /predictions/isplit/1.0/recommendations/resnet50/classes/281,282
"""

_CONSTRAINTS: Final = {
    "bandwidth_mbps": "uplink in megabits a second",
    "rtt_ms": "round-trip time in milliseconds",
    "max_latency_ms": "drop cuts slower than this",
    "max_bytes": "drop cuts that send more than this for an image",
    "max_head_macs": "drop cuts whose head costs the device more multiply-accumulates than this",
    "accuracy_tolerance": "share of predictions that may differ from the full network's (0.01)",
    "device_slowdown": "how many times slower the device is than the machine that made the profile",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="the name it was registered by")
    parser.add_argument(
        "--classes", metavar="ID[,ID...]", help="for these classes instead of the live mix"
    )
    parser.add_argument("--group", help="for one device group")
    for name, text in _CONSTRAINTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X", help=text)
    parser.add_argument(
        "--objective", choices=("latency", "bytes"), help="what to keep small (latency)"
    )
    parser.add_argument(
        "--predictor",
        metavar="NAME",
        help="what ranks places for a bottleneck: cui (default), depth, or the profile's",
    )
    parser.add_argument("--json", action="store_true", help="the endpoint's answer as it is")
    common.add_connection(parser)


def run(options: argparse.Namespace) -> int:
    from ..client import fetch_recommendation

    asked = (*_CONSTRAINTS, "objective")
    constraints = {name: value for name in asked if (value := getattr(options, name)) is not None}
    classes = common.class_ids(options.classes) if options.classes else None
    if options.group is not None and not options.group:
        raise QueryError("--group: expected a name, got nothing")
    answer = fetch_recommendation(
        options.url,
        options.model,
        token=common.token_of(options),
        classes=classes,
        group=options.group,
        predictor=options.predictor,
        **constraints,
    )
    if options.json:
        common.emit_json(answer.to_json())
    else:
        print(render(answer))
    return 0


def _standing_line(pick: StandingPick) -> str:
    """The standing pick, since when, and the rival that waits for proof."""
    since = "from the profile" if pick.since is None else f"since {common.utc_time(pick.since)}"
    rival = "no other cut is estimated to be better"
    if pick.rival is not None:
        rival = f"{pick.rival} waits for proof ({pick.reason})"
    return f"  standing pick: {pick.cut}, {since}; {rival}"


def render(answer: Recommendation, *, limit: int = 12) -> str:
    """A recommendation for people: the pick, the standing pick, the cuts with their reasons, the candidates."""
    classes = ", ".join(f"{share.label} {share.weight:.0%}" for share in answer.classes[:6])
    more = f" and {len(answer.classes) - 6} more" if len(answer.classes) > 6 else ""
    lines = [
        f"{answer.model} {answer.version}: use {answer.cut}",
        f"  {answer.reason}",
        f"  classes ({answer.mix}): {classes or 'none seen'}{more}",
        f"  from {answer.observations} live requests and the profile; source {answer.source}, "
        f"confidence {answer.confidence:.2f}, revision {answer.revision}",
        *([] if answer.standing is None else [_standing_line(answer.standing)]),
        "",
        "What to use now",
        common.table(
            ("", "cut", "bytes", "latency ms", "agreement", "why"),
            (
                (
                    "*" if row.verdict == "picked" else "",
                    str(row.cut),
                    round(row.nbytes),
                    round(row.latency_ms, 1),
                    "-" if row.agreement is None else f"{row.agreement:.1%}",
                    row.reason,
                )
                for row in worth_showing(answer, limit)
            ),
        ),
        "",
        f"Where a bottleneck is worth training (rule {answer.rule} over {answer.candidate_set}, predictor "
        f"{answer.predictor})",
        common.table(
            ("", "split point", "CUI", "standard error", "source", "live", "profile", "raw bytes"),
            (
                (
                    "*" if candidate.split_point == answer.best_candidate else "",
                    candidate.split_point,
                    f"{candidate.predictor_value:.3e}",
                    "-"
                    if math.isnan(candidate.standard_error)
                    else f"{candidate.standard_error:.1e}",
                    candidate.source,
                    round(candidate.live_count),
                    round(candidate.profile_count),
                    candidate.nbytes,
                )
                for candidate in [c for c in answer.candidates if c.is_candidate][:limit]
            ),
        ),
    ]
    return "\n".join(lines)


def worth_showing(answer: Recommendation, limit: int) -> list[RatedCut]:
    """The best cuts. Of those further down, also the first that sends the photo and the one that stays here."""
    rows = list(answer.cuts[:limit])
    for point in (INPUT, OUTPUT):
        if not any(row.split_point == point for row in rows):
            rows += [row for row in answer.cuts[limit:] if row.split_point == point][:1]
    jpeg = [row for row in answer.cuts if row.cut == Cut(INPUT, "jpeg")]
    return [*rows, *(row for row in jpeg if row not in rows)]
