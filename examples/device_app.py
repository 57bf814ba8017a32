"""A device that classifies the photos of a folder and cuts where the server recommends.

    python examples/device_app.py photos/ --url http://127.0.0.1:8443 --model resnet50 \
        --head resnet50.head.zip --token-file phone-1.token

It needs only the light client: pip install '.[onnx]' in a checkout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from isplit_plugin.client import SplitClient
from isplit_plugin.errors import (
    BundleError,
    ImageError,
    IsplitError,
    NetworkMismatchError,
    TokenError,
    TransportError,
)

ASK_EVERY = 50
"""Photos between two questions to the server, whose recommendation changes slowly."""


def main() -> None:
    options = parse_options()
    client = SplitClient(
        options.url,
        model=options.model,
        head=options.head,
        # Read again when the forwarder refuses it, such as after it has expired.
        device_token=lambda: options.token_file.read_text().strip(),
        cut=options.cut,
        raw_scores=False,  # the best classes are enough here, and the answer is smaller
        local_fallback=True,  # while the server is away, the whole network runs here
    )
    with client:
        cut = None  # the client's own
        for number, photo in enumerate(sorted(options.folder.iterdir())):
            if number % ASK_EVERY == 0:
                follow_recommendation(client)
                cut = None
            cut = classify(client, photo, cut)


def follow_recommendation(client: SplitClient) -> None:
    """Ask the server where to cut. Without an answer that fits here, the current cut stays.

    There is none while the server or its store is away, after the store forgot this version, or if
    the answer is a cut that this device cannot do.
    """
    try:
        answer = client.recommendation()
        client.use(answer)
    except IsplitError as error:
        print(f"still cutting at {client.cut}: {error.message}")
    else:
        print(f"cutting at {client.cut}: {answer.use.reason}")


def classify(client: SplitClient, photo: Path, cut: str | None) -> str | None:
    """Print the class of a photo, and return the cut for the next one.

    A bad photo, or a server that is away, does not end the run. Where the server has no network of
    this head bundle any more, the whole network runs here until the server is asked again.
    """
    try:
        prediction = client.predict(photo, cut)
    except NetworkMismatchError as error:
        print(f"this device needs a new head bundle: {error.message}")
        return classify(client, photo, "output")
    except (ImageError, TransportError, TokenError, BundleError) as error:
        print(f"{photo.name}: not classified, {error.message}")
    else:
        fallback = "the server is away, " if prediction.fallback else ""
        print(
            f"{photo.name}: {prediction.label} ({prediction.probability:.0%}), {fallback}"
            f"cut at {prediction.cut}, {prediction.bytes_sent} bytes sent, "
            f"{prediction.timings.total_ms:.0f} ms"
        )
    return cut


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of photos")
    parser.add_argument("--url", default="http://127.0.0.1:8443", help="address of the forwarder")
    parser.add_argument("--model", required=True, help="name that the model is registered by")
    parser.add_argument("--head", required=True, type=Path, help="head bundle, MODEL.head.zip")
    parser.add_argument("--token-file", required=True, type=Path, help="this device's token")
    parser.add_argument("--cut", help="cut to start with, such as layer2:uint8+zstd")
    return parser.parse_args()


if __name__ == "__main__":
    main()
