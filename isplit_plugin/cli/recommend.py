"""``isplit recommend``: ask the endpoint where to cut."""

from __future__ import annotations

import argparse
from typing import Final

from ..errors import QueryError
from ..terminal import recommendation_text
from . import common

HELP: Final = "ask where to cut now, and where a bottleneck is worth training"
DESCRIPTION: Final = """\
Ask the endpoint `isplit` where to cut a model. The answer has two parts:
  use         the deployed cut that a device should use now, by measured
              agreement with the full network, bytes and predicted latency;
              sending the JPEG and staying on the device are cuts too
  candidates  the split points where a bottleneck is worth training, ranked by
              the class-conditional CUI curve
"""
EPILOG: Final = """\
examples:
  isplit recommend resnet50 --token-file key_file.json
  isplit recommend resnet50 --classes 281,282 --bandwidth-mbps 2 --rtt-ms 60
  isplit recommend resnet50 --max-bytes 20000 --accuracy-tolerance 0.02 --json
The first question with curl: GET /predictions/isplit/1.0/recommendations/resnet50
"""

_CONSTRAINTS: Final = {
    "bandwidth_mbps": "uplink in megabits per second",
    "rtt_ms": "round-trip time in milliseconds",
    "max_latency_ms": "exclude cuts that are slower than this, in milliseconds",
    "max_bytes": "exclude cuts that send more than this for an image",
    "max_head_macs": "exclude cuts whose head needs more multiply-accumulates than this",
    "accuracy_tolerance": "share of predictions that may differ from the full network's "
    "(default: 0.01)",
    "device_slowdown": "how many times slower the device is than the machine that made the profile",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="name that the model is registered by")
    parser.add_argument(
        "--classes", metavar="ID[,ID...]", help="ask for these classes instead of the live mix"
    )
    parser.add_argument("--group", help="ask for one device group")
    for name, text in _CONSTRAINTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X", help=text)
    parser.add_argument(
        "--objective", choices=("latency", "bytes"), help="what to minimise (default: latency)"
    )
    parser.add_argument(
        "--predictor",
        metavar="NAME",
        help="what ranks the candidates: cui (default), depth, or one from the profile",
    )
    parser.add_argument("--json", action="store_true", help="print the endpoint's answer as JSON")
    common.add_connection(parser)


def run(options: argparse.Namespace) -> int:
    from ..client import fetch_recommendation

    values = {name: getattr(options, name) for name in (*_CONSTRAINTS, "objective")}
    constraints = {name: value for name, value in values.items() if value is not None}
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
        print(recommendation_text(answer))
    return 0
