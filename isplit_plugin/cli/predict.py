"""``isplit predict``: run the head here and the tail on the server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ImageError, IsplitError, WireError
from ..schema import INPUT, OUTPUT
from ..terminal import kilobytes
from . import common

if TYPE_CHECKING:
    from ..client import ReleasedExit, SplitClient
    from ..schema import Cut, Prediction

HELP: Final = "classify photos: head here, tail on the server"
DESCRIPTION: Final = """\
Run the head of a split model on this machine, send the activation, and print
the tail's answer. It needs only the light client:
  pip install 'isplit-plugin[onnx]'
"""
EPILOG: Final = """\
examples:
  isplit predict cat.jpg --model resnet50 --head resnet50.head.zip --device-token-file phone.token
  isplit predict *.jpg --model resnet50 --head resnet50.head.zip --cut input  # send photos
  isplit predict *.jpg --model resnet50 --head resnet50.head.zip --auto  # follow the server
  isplit predict *.jpg --model resnet50 --head resnet50.head.zip --exit-key exit.key.pub
A photo that cannot be read is reported and the others go on; the exit code is then 3.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    parser.add_argument("--model", required=True, help="name that the model is registered by")
    parser.add_argument(
        "--version",
        metavar="V",
        help="version of the model (default: the bundle's; where the server does not have it any "
        "more, its default version, if that has the same network)",
    )
    parser.add_argument(
        "--head", required=True, type=Path, metavar="ZIP", help="the head bundle, NAME.head.zip"
    )
    parser.add_argument(
        "--cut",
        metavar="CUT",
        help="SPLIT_POINT:CODEC such as layer2:uint8+zstd, with a quality where the codec has "
        "several (input:webp@75, layer2:dct@3, or layer2:dct@3+7, which sends a photo again where "
        "the first answer is not sure), or a split point alone; input sends the photo, output "
        "sends nothing (default: the bundle's)",
    )
    parser.add_argument(
        "--auto", action="store_true", help="use the cut that the endpoint recommends"
    )
    parser.add_argument(
        "--exit-key",
        type=Path,
        metavar="FILE",
        help="the operator's public key: fetch the exits of the model, and answer here where they "
        "may (isplit docs answer-on-the-device)",
    )
    parser.add_argument(
        "--local-fallback",
        action="store_true",
        help="run the whole network here while the server does not answer, if the bundle can",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="for a request as a whole, retries included (default: %(default)g)",
    )
    parser.add_argument(
        "--top-k", type=int, default=5, metavar="K", help="classes to print (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    common.add_connection(parser)


def run(options: argparse.Namespace) -> int:
    from ..client import SplitClient

    rows: list[dict[str, object]] = []
    failed = 0
    with SplitClient(
        options.url,
        model=options.model,
        version=options.version,
        head=options.head,
        token=common.token_of(options),
        cut=options.cut,
        top_k=options.top_k,
        raw_scores=False,
        device_token=common.device_token_of(options),
        local_fallback=options.local_fallback,
        timeout=options.timeout,
        exit_key=options.exit_key,
    ) as client:
        _take_advice(client, needs_cut=options.auto)
        if client.exits is not None:
            client.exits.wait(options.timeout)
            exits, cut = client.exits, client.cut
            text = exit_sentence(cut, exits.released(cut), exits.refusal(cut))
            print(text, file=sys.stderr)
        for photo in options.photos:
            try:
                prediction = client.predict(photo)
            except (ImageError, WireError) as error:
                # The other photos may be fine. All other errors would repeat for each photo.
                failed += 1
                rows.append({"photo": str(photo), **error.to_json()})
                if not options.json:
                    print(f"{photo}: {error.message}")
            else:
                rows.append(describe(photo, prediction))
                if not options.json:
                    print(sentence(photo, prediction))
        if client.exits is not None:
            client.exits.wait(options.timeout)  # for audits
    if options.json:
        common.emit_json(rows)
    elif options.exit_key is not None:
        here = sum(row.get("path") == "exit" for row in rows)
        print(f"{here} of {len(rows)} photos answered by the exit")
    return 3 if failed else 0


def _take_advice(client: SplitClient, *, needs_cut: bool) -> None:
    """Take the cut of the endpoint, where that is wanted, and the exits that it names.

    Without advice there are no exits, but photos can be sent, or answered by the whole network.
    Raises IsplitError where the cut is wanted.
    """
    if not needs_cut and client.exits is None:
        return
    try:
        advice = client.recommendation()
    except IsplitError as error:
        if needs_cut:
            raise
        print(f"warning: no exits, the endpoint does not say any: {error.message}", file=sys.stderr)
        return
    client.note_exits(advice)
    if needs_cut:
        client.use(advice)


def exit_sentence(cut: Cut, released: ReleasedExit | None, refusal: str = "") -> str:
    """What the exit of a cut may answer, for people. ``refusal``: why it was not taken."""
    if released is None and refusal:
        return f"exit at {cut}: not taken, so every photo is sent: {refusal}"
    if released is None:
        return f"exit at {cut}: nothing is released, so every photo is sent"
    return (
        f"exit at {cut}: {len(released.classes)} classes are released, {released.audit_share:.0%} of "
        "what it answers is audited"
    )


def describe(photo: Path, prediction: Prediction) -> dict[str, object]:
    """One prediction as JSON types."""
    times = prediction.timings
    return {
        "photo": str(photo),
        "label": prediction.label,
        "top": [entry._asdict() for entry in prediction.top],
        "cut": str(prediction.cut),
        "path": prediction.path,
        "fallback": prediction.fallback,
        "bytes_sent": prediction.bytes_sent,
        "round_trips": prediction.round_trips,
        "is_sure": prediction.is_sure,
        "timings_ms": {
            "prepare": times.prepare_ms,
            "head": times.head_ms,
            "encode": times.encode_ms,
            "exit": times.exit_ms,
            "round_trip": times.round_trip_ms,
            "network": times.network_ms,
            "queue": times.queue_ms,
            "decode": times.decode_ms,
            "tail": times.tail_ms,
            "total": times.total_ms,
        },
        "request_id": prediction.request_id,
        "device": prediction.device,
    }


def sentence(photo: Path, prediction: Prediction) -> str:
    """One prediction for people."""
    top = ", ".join(f"{entry.label} {entry.probability:.0%}" for entry in prediction.top)
    times = prediction.timings
    if prediction.split_point == OUTPUT:
        why = "the server did not answer, so " if prediction.fallback else ""
        return (
            f"{photo}: {top}\n    {why}the whole network here: nothing sent, {times.head_ms:.1f} ms"
        )
    if prediction.path == "exit":
        return (
            f"{photo}: {top}\n    answered here by the exit at {prediction.cut}: "
            f"head {times.head_ms:.1f} ms, exit {times.exit_ms:.1f} ms, no round trip"
        )
    where = f"cut at {prediction.split_point} as {prediction.cut.coding}"
    head = f"head {times.head_ms:.1f} ms, "
    if prediction.split_point == INPUT:
        where = f"the whole network on the server, input as {prediction.cut.coding}"
        head = ""
    lines = [
        f"{photo}: {top}",
        f"    {where}: sent {kilobytes(prediction.bytes_sent)}, "
        f"{head}round trip {times.round_trip_ms:.1f} ms (tail {times.tail_ms:.1f} ms)",
    ]
    if prediction.device.startswith("invalid"):
        lines.append(f"    device token {prediction.device}")
    return "\n".join(lines)
