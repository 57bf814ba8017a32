"""``isplit recommend``: ask the endpoint where to cut."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ..errors import QueryError, UnknownClassError
from ..schema import OBJECTIVES
from ..terminal import exits_text, recommendation_text
from . import common

if TYPE_CHECKING:
    from ..client import Token

HELP: Final = "ask where to cut now, and where a bottleneck is worth training"
DESCRIPTION: Final = """\
Ask the endpoint `isplit` where to cut a model. The answer has two parts:
  use         the deployed cut that a device should use now, by measured
              agreement with the full network, bytes and predicted latency;
              sending the photo and staying on the device are cuts too
  candidates  the split points where a bottleneck is worth training, ranked by
              the class-conditional CUI curve
"""
EPILOG: Final = """\
examples:
  isplit recommend resnet50 --device-token-file phone.token
  isplit recommend resnet50 --classes 281,goldfish --bandwidth-mbps 2 --rtt-ms 60
  isplit recommend resnet50 --version 2.0 --token-file key_file.json
  isplit recommend resnet50 --max-bytes 20000 --accuracy-tolerance 0.02 --json
--device-token-file and --url, or the variables ISPLIT_DEVICE_TOKEN and ISPLIT_URL, go
with each of them. The first question with curl: GET /predictions/isplit/1.0/recommendations/resnet50
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
        "--version",
        metavar="V",
        help="version of the model (default: the current one, which answers most requests)",
    )
    parser.add_argument(
        "--classes",
        metavar="CLASS[,CLASS...]",
        help="ask for these classes, ids or labels, instead of the live mix",
    )
    parser.add_argument("--group", help="ask for one device group")
    for name, text in _CONSTRAINTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X", help=text)
    parser.add_argument(
        "--objective", choices=OBJECTIVES, help="what to minimise (default: latency)"
    )
    parser.add_argument(
        "--predictor",
        metavar="NAME",
        help="what ranks the candidates: cui (default), depth, or one from the profile",
    )
    parser.add_argument("--json", action="store_true", help="print the endpoint's answer as JSON")
    common.add_connection(parser)


def run(options: argparse.Namespace) -> int:
    from ..client import fetch_exits, fetch_recommendation

    values = {name: getattr(options, name) for name in (*_CONSTRAINTS, "objective")}
    constraints = {name: value for name, value in values.items() if value is not None}
    if options.group is not None and not options.group:
        raise QueryError("--group: expected a name, got nothing")
    token = common.bearer_of(options)
    answer = fetch_recommendation(
        options.url,
        options.model,
        token=token,
        classes=None if options.classes is None else _class_ids(options, token),
        group=options.group,
        version=options.version,
        predictor=options.predictor,
        **constraints,
    )
    if options.json:
        common.emit_json(answer.to_json())
    else:
        print(recommendation_text(answer))
        if answer.exits:
            listing = fetch_exits(options.url, options.model, token, version=options.version)
            print(f"\n{exits_text(listing)}")
    return 0


def _class_ids(options: argparse.Namespace, token: Token) -> tuple[int, ...]:
    """The ids of ``--classes``. The endpoint is asked for the labels only if one is used.

    Raises:
        QueryError: a label is empty, or several classes have it.
        UnknownClassError: the model has no class of this label.
        IsplitError: the endpoint's error, or the error of reaching it.
    """
    text: str = options.classes
    words = [word.strip() for word in text.split(",")]
    if all(word.isascii() and word.isdigit() for word in words):
        return tuple(int(word) for word in words)
    if not all(words):
        raise QueryError(f"--classes: expected ids or labels, such as 281,tabby, got {text!r}")
    ids_by_label = _ids_by_label(options, token)
    if text in ids_by_label:  # a label with commas
        words = [text]
    return tuple(_class_id(word, ids_by_label) for word in words)


def _class_id(word: str, ids_by_label: Mapping[str, list[int]]) -> int:
    if word.isascii() and word.isdigit():
        return int(word)
    ids = ids_by_label.get(word, [])
    if len(ids) == 1:
        return ids[0]
    if ids:
        raise QueryError(
            f"--classes: {len(ids)} classes have the label {word!r}: "
            f"give an id, one of {', '.join(map(str, ids))}"
        )
    raise UnknownClassError.of(word, ids_by_label)


def _ids_by_label(options: argparse.Namespace, token: Token) -> dict[str, list[int]]:
    from ..client import fetch_classes

    ids_by_label: dict[str, list[int]] = {}
    labels = fetch_classes(options.url, options.model, token, version=options.version)
    for class_id, label in labels.items():
        ids_by_label.setdefault(label, []).append(class_id)
    return ids_by_label
