"""``isplit simulate``: what each cut would cost on a link, before anything is deployed."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import QueryError
from ..terminal import kilobytes, table
from . import common

if TYPE_CHECKING:
    from ..simulation import PolicyResult, Scenario, Uplink

HELP: Final = "simulate what each cut costs on a link, before anything is deployed"
DESCRIPTION: Final = """\
Simulate devices that classify photos with a profiled network over a link: each cut on its own,
the adaptive client, which decides for each photo, and an oracle, which knows the link's future.

The link is a constant rate or a trace in Mahimahi's format: one line for each opportunity to send
1,500 bytes, in milliseconds from the start. Every device works on one photo at a time; a photo
that has to wait counts from its arrival. Only cuts that are accurate enough take part.
"""
EPILOG: Final = """\
examples:
  isplit simulate resnet50.profile.safetensors --bandwidth-mbps 4 --rtt-ms 40 --slowdown 8
  isplit simulate resnet50.profile.safetensors --trace drive.up --deadline-ms 150 --slowdown 4
  isplit simulate resnet50.profile.safetensors --bandwidth-mbps 4 --udp 0.05
  isplit simulate resnet50.profile.safetensors --trace drive.up --devices 30 --workers 2 \\
      --report simulation.html
  isplit simulate resnet50.profile.safetensors --bandwidth-mbps 1 --tolerance 0.02 \\
      --exit-share layer3:uint8+zstd=0.6

The second answers "which cuts meet 150 ms on this trace": see the columns p95 and missed.
The third shows latency against the agreement that is left: the fastest cuts first, then those
that are slower and agree more often.
The last asks what it would bring if exits answered 60 % of the photos at that cut by themselves.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profile", type=Path, help="the file that `isplit profile` wrote")
    link = parser.add_argument_group("link")
    uplink = link.add_mutually_exclusive_group()
    uplink.add_argument(
        "--bandwidth-mbps",
        type=float,
        default=4.0,
        metavar="X",
        help="constant uplink in megabits per second (default: %(default)g)",
    )
    uplink.add_argument("--trace", type=Path, metavar="FILE", help="a trace of the uplink")
    uplink.add_argument(
        "--swinging",
        type=float,
        metavar="X",
        help="a made-up trace that swings like that of a moving phone, X Mbit/s on average",
    )
    link.add_argument(
        "--udp",
        type=float,
        metavar="LOSS",
        help="UDP instead of TCP: this share of the packets is lost and not sent again; one that "
        "`isplit profile --loss` measured",
    )
    _number(link, "--rtt-ms", 30.0, "round trip without the time of the bytes")
    device = parser.add_argument_group("devices and photos")
    _number(device, "--slowdown", 1.0, "how many times slower a device is than the profile's CPU")
    _whole(device, "--devices", 1, "devices that share the server")
    _number(device, "--prepare-ms", 0.0, "from the photo to the head's input, on the device")
    _number(device, "--rate", 2.0, "photos a second of each device")
    _whole(device, "--burst", 1, "photos that arrive at once")
    _whole(device, "--photos", 300, "photos of each device")
    device.add_argument(
        "--deadline-ms", type=float, metavar="X", help="of each photo, from its arrival"
    )
    server = parser.add_argument_group("server")
    _whole(server, "--workers", 1, "workers, each of which runs one batch at a time")
    _whole(server, "--batch-size", 1, "requests that a worker runs together")
    _number(server, "--batch-delay-ms", 0.0, "how long a worker waits for a batch to fill")
    _number(
        server,
        "--batch-cost",
        1.0,
        "what a further request of a batch takes, as a share of its time alone; 1 on a CPU thread",
    )
    _number(server, "--server-slowdown", 1.0, "how many times slower it is than the profile's CPU")
    rules = parser.add_argument_group("rules")
    _number(rules, "--tolerance", 0.01, "share of answers that may differ from the full network's")
    rules.add_argument(
        "--max-head-macs", type=float, metavar="X", help="the most work that a head may need"
    )
    exits = parser.add_argument_group(
        "exits", "what if devices answered some photos by themselves (isplit docs exits)"
    )
    exits.add_argument(
        "--exit-share",
        action="append",
        default=[],
        metavar="CUT=SHARE",
        help="the share of photos that the exit of a cut answers, 0 to 1, such as "
        "layer3:uint8=0.6; a split point alone means all of its cuts; may be given several times",
    )
    _number(
        exits,
        "--exit-tolerance",
        0.01,
        "share of an exit's answers that may differ from the tail's; together with what the cut "
        "loses it must be within --tolerance",
    )
    rules.add_argument("--seed", type=int, default=0, help="of arrivals and noise (default: 0)")
    rules.add_argument("--no-oracle", action="store_true", help="leave the oracle out")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write an HTML page")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(options: argparse.Namespace) -> int:
    from ..simulation import compare, undominated

    scenario = _scenario(options)
    results = compare(scenario, oracle=not options.no_oracle, progress=_progress)
    if scenario.loss is not None:
        results = undominated(results)
    if options.report is not None:
        from ..report import write_simulation

        write_simulation(options.report, scenario, results)
        print(f"report: {options.report}", file=sys.stderr)
    if options.json:
        common.emit_json(
            {
                "link": scenario.uplink.describe(),
                "loss": scenario.loss,
                "deadline_ms": scenario.deadline_ms,
                "tolerance": options.tolerance,
                "results": [
                    {
                        **result.to_json(),
                        "undecided": _is_undecided(scenario, result, options.tolerance),
                    }
                    for result in results
                ],
            }
        )
        return 0
    print(scenario.describe())
    print()
    print(_table(scenario, results, options.tolerance))
    print()
    print(_conclusion(scenario, results, options.tolerance))
    return 0


def _scenario(options: argparse.Namespace) -> Scenario:
    from ..profile import Profile
    from ..simulation import Scenario, options_of, with_exits

    shares = _exit_shares(options)
    profile = Profile.load(options.profile)
    cuts = options_of(
        profile,
        slowdown=options.slowdown,
        server_slowdown=options.server_slowdown,
        tolerance=options.tolerance,
        max_head_macs=options.max_head_macs,
        prepare_ms=options.prepare_ms,
        loss=options.udp,
    )
    cuts = with_exits(
        cuts,
        shares,
        tolerance=options.tolerance,
        exit_tolerance=options.exit_tolerance,
    )
    return Scenario(
        options=cuts,
        loss=options.udp,
        uplink=_uplink(options),
        rtt_ms=options.rtt_ms,
        deadline_ms=options.deadline_ms,
        rate=options.rate,
        burst=options.burst,
        devices=options.devices,
        workers=options.workers,
        batch_size=options.batch_size,
        batch_delay_ms=options.batch_delay_ms,
        batch_cost=options.batch_cost,
        photos=options.photos,
        seed=options.seed,
    )


def _exit_shares(options: argparse.Namespace) -> dict[str, float]:
    """The shares of ``--exit-share`` by cut or split point. Raises QueryError."""
    if options.exit_share and options.udp is not None:
        raise QueryError(
            "--exit-share: not with --udp, whose agreement exits have not been proven on"
        )
    shares = {}
    for text in options.exit_share:
        cut, _, share = text.rpartition("=")
        try:
            shares[cut] = float(share)
        except ValueError:
            cut = ""
        if not cut:
            raise QueryError(
                f"--exit-share: expected CUT=SHARE, such as layer3:uint8=0.6, got {text!r}"
            )
    return shares


def _uplink(options: argparse.Namespace) -> Uplink:
    from ..simulation import ConstantUplink, TraceUplink, swinging_trace

    if options.trace is not None:
        return TraceUplink.load(options.trace)
    if options.swinging is not None:
        if not (math.isfinite(options.swinging) and options.swinging > 0):
            raise QueryError(f"--swinging: expected a positive number, got {options.swinging!r}")
        return swinging_trace(options.seed, mean_mbps=options.swinging)
    return ConstantUplink(options.bandwidth_mbps)


def _progress(policy: str) -> None:
    print(f"simulating {policy}", file=sys.stderr)


def _table(scenario: Scenario, results: list[PolicyResult], tolerance: float) -> str:
    header = ["policy", "mean ms", "p50 ms", "p95 ms", "bytes", "agreement", "server load"]
    if scenario.deadline_ms is not None:
        header.insert(4, "missed")
    if _has_exits(scenario):
        header.append("exits")
    rows = []
    for result in results:
        row: list[object] = [
            result.policy,
            f"{result.mean_ms:.0f}",
            f"{result.p50_ms:.0f}",
            f"{result.p95_ms:.0f}",
            kilobytes(result.mean_bytes),
            f"{result.agreement:.3f}" + "*" * _is_undecided(scenario, result, tolerance),
            f"{result.server_load:.2f}",
        ]
        if scenario.deadline_ms is not None:
            row.insert(4, f"{result.missed:.3f}")
        if _has_exits(scenario):
            row.append(f"{result.exited:.0%}")
        rows.append(row)
    return table(header, rows)


def _is_undecided(scenario: Scenario, result: PolicyResult, tolerance: float) -> bool:
    """Whether agreement is below the tolerance, on too few photos to tell whether by chance.

    Cuts of which they can tell take no part. On UDP the table shows the agreement that is left,
    whatever it is.
    """
    return scenario.loss is None and result.agreement < 1 - tolerance - 1e-9


def _has_exits(scenario: Scenario) -> bool:
    return any(option.exit is not None for option in scenario.options)


def _exits_text(scenario: Scenario) -> list[str]:
    """A line on each exit that does not answer, and on what agreement means with exits."""
    exits = {
        str(option.cut): option.exit
        for option in scenario.options
        if option.exit is not None and not option.refused
    }
    lines = [
        f"the exit at {cut} does not answer: {exit_.refused} (--tolerance, --exit-tolerance)"
        for cut, exit_ in exits.items()
        if exit_.refused
    ]
    if any(not exit_.refused for exit_ in exits.values()):
        lines.append(
            "exits: share of photos that the device answers by itself; agreement is then at least "
            "that much, because exits agree with the tail but for their tolerance"
        )
    return lines


def _conclusion(scenario: Scenario, results: list[PolicyResult], tolerance: float) -> str:
    from ..simulation import ADAPTIVE, best_fixed

    if scenario.loss is not None:
        text = (
            "agreement is what is left of it: an answer that needs a lost packet counts as wrong. "
            "Cuts are left out where another is as fast and agrees more often."
        )
        if scenario.deadline_ms is not None:
            agreeing = [result for result in results if result.agreement >= 1 - tolerance - 1e-9]
            wanted = f" and agreement of at least {1 - tolerance:.4g}"
            text += "\n" + _in_time(scenario.deadline_ms, agreeing, wanted)
        return text
    best = best_fixed(results)
    adaptive = next(result for result in results if result.policy == ADAPTIVE)
    text = (
        f"best fixed cut: {best.policy}, {best.mean_ms:.0f} ms on average; the adaptive client "
        f"takes {adaptive.mean_ms / best.mean_ms:.2f} times as long"
    )
    if adaptive.cuts:
        cuts = sorted(adaptive.cuts.items(), key=lambda item: -item[1])
        text += ", by " + ", ".join(f"{cut} {share:.0%}" for cut, share in cuts[:4])
    lines = [text]
    undecided = {r.policy for r in results if _is_undecided(scenario, r, tolerance)}
    if scenario.deadline_ms is not None:
        lines.append(_in_time(scenario.deadline_ms, results, undecided=undecided))
    if undecided:
        lines.append(
            f"* agreement below {1 - tolerance:.4g}, on too few photos to tell whether by chance: "
            "profile more photos"
        )
    return "\n".join([*lines, *_exits_text(scenario)])


def _in_time(
    deadline_ms: float,
    results: list[PolicyResult],
    wanted: str = "",
    *,
    undecided: Set[str] = frozenset(),
) -> str:
    names = [
        result.policy + "*" * (result.policy in undecided)
        for result in results
        if result.p95_ms <= deadline_ms
    ]
    return f"within {deadline_ms:g} ms at p95{wanted}: {', '.join(names) or 'none'}"


def _number(group: argparse._ArgumentGroup, option: str, default: float, text: str) -> None:
    group.add_argument(
        option, type=float, default=default, metavar="X", help=f"{text} (default: %(default)g)"
    )


def _whole(group: argparse._ArgumentGroup, option: str, default: int, text: str) -> None:
    group.add_argument(
        option,
        type=common.positive_int,
        default=default,
        metavar="N",
        help=f"{text} (default: %(default)s)",
    )
