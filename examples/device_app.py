"""A camera app: each frame goes the way that is fastest now, and no answer is late if it can help.

    python examples/device_app.py photos/ --url http://127.0.0.1:8443 --model resnet50 \
        --head resnet50.head.zip --device-token-file phone-1.token --deadline-ms 300

The photos of a folder stand for the camera's frames. It needs only the light client:
pip install '.[onnx]' in a checkout.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from isplit_plugin.client import AdaptiveClient, Frame, FrameStream, SplitClient
from isplit_plugin.errors import IsplitError, NetworkMismatchError


def main() -> None:
    options = parse_options()
    client = SplitClient(
        options.url,
        model=options.model,
        head=options.head,
        # Read again when the forwarder refuses it, such as after it has expired.
        device_token=lambda: options.device_token_file.read_text().strip(),
        cut=options.cut,
        exit_key=options.exit_key,
        raw_scores=False,  # the best classes are enough here, and the answer is smaller
    )
    with AdaptiveClient(
        client, deadline_ms=options.deadline_ms, tolerance=options.tolerance
    ) as app:
        app.wait_for_advice(options.wait_s)
        if client.exits is not None:
            client.exits.wait(options.wait_s)  # until the exits that the advice names are here
        # A camera does not wait: the oldest frame is dropped. Files can.
        drop = "none" if options.fps is None else "oldest"
        with app.stream(camera(options.folder, options.fps), drop=drop) as stream:
            print(show(stream, options.deadline_ms))
        explanation = app.explain()
        print(explanation)
        warn(explanation.failure)


def camera(folder: Path, fps: float | None) -> Iterator[Path]:
    """The photos of a folder, one after the other or so many a second."""
    for photo in sorted(folder.iterdir()):
        yield photo
        if fps is not None:
            time.sleep(1 / fps)


def show(stream: FrameStream, deadline_ms: float | None) -> Figures:
    """Print the answer of each frame. A bad photo, or a server that is away, does not end the run."""
    figures = Figures(deadline_ms)
    for frame in stream:
        print(describe(frame))
        figures.add(frame)
    figures.dropped, figures.rate = stream.dropped, stream.rate
    return figures


def describe(frame: Frame) -> str:
    """One line on a frame."""
    prediction = frame.prediction
    if prediction is None:
        reason = "" if frame.error is None else frame.error.message
        return f"frame {frame.index}: not classified, {reason}"
    how = "the server was late, " if prediction.fallback else ""
    if prediction.path == "exit":
        how = "by the exit, "
    return (
        f"frame {frame.index}: {prediction.label} ({prediction.probability:.0%}), {how}"
        f"cut at {prediction.cut}, {prediction.bytes_sent} bytes sent, {frame.age_ms:.0f} ms old"
    )


class Figures:
    """What the app has seen. An answer is late if its frame is older than the deadline by then."""

    def __init__(self, deadline_ms: float | None) -> None:
        self.deadline_ms = deadline_ms
        self.ages_ms: list[float] = []
        self.cuts: Counter[str] = Counter()
        self.failed = 0
        self.nbytes = 0
        self.dropped = 0
        self.rate = 0.0

    def add(self, frame: Frame) -> None:
        if frame.prediction is None:
            self.failed += 1
            return
        self.ages_ms.append(frame.age_ms)
        self.cuts[str(frame.prediction.cut)] += 1
        self.nbytes += frame.prediction.bytes_sent

    def __str__(self) -> str:
        ages_ms = sorted(self.ages_ms)
        text = (
            f"frames: {len(ages_ms)} classified, {self.failed} not, {self.dropped} dropped; "
            f"{self.rate:.1f} a second"
        )
        if ages_ms:
            p95_ms = ages_ms[int(0.95 * (len(ages_ms) - 1))]
            text += (
                f"; half are at most {median(ages_ms):.0f} ms old, 95 % {p95_ms:.0f} ms; "
                f"{self.nbytes / len(ages_ms):.0f} bytes each"
            )
        if self.deadline_ms is not None:
            late = sum(age_ms > self.deadline_ms for age_ms in ages_ms)
            text += f"; {late} later than {self.deadline_ms:g} ms"
        shares = ", ".join(f"{cut} {count}" for cut, count in self.cuts.most_common())
        return f"{text}\ncuts: {shares or 'none'}"


def warn(failure: IsplitError | None) -> None:
    """Say what the user has to do about the server, if anything."""
    if isinstance(failure, NetworkMismatchError):
        print(f"this device needs a new head bundle: {failure.message}")
    elif failure is not None:
        print(f"the server failed: {failure.message}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of photos")
    parser.add_argument("--url", default="http://127.0.0.1:8443", help="address of the forwarder")
    parser.add_argument("--model", required=True, help="name that the model is registered by")
    parser.add_argument("--head", required=True, type=Path, help="head bundle, MODEL.head.zip")
    parser.add_argument("--device-token-file", required=True, type=Path, help="this device's token")
    parser.add_argument(
        "--exit-key",
        type=Path,
        metavar="FILE",
        help="the operator's public key: answer here where exits may",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        metavar="X",
        help="share of answers that may differ from the full network's, exits included "
        "(default: 0.01)",
    )
    parser.add_argument("--cut", help="cut to start with, such as layer2:uint8+zstd")
    parser.add_argument(
        "--deadline-ms", type=float, metavar="X", help="when an answer is wanted, such as 300"
    )
    parser.add_argument(
        "--fps", type=float, metavar="X", help="frames a second; by default as fast as they go"
    )
    parser.add_argument(
        "--wait-s",
        type=float,
        default=5.0,
        metavar="X",
        help="for the first advice and exits (default: 5)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
