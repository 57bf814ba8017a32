"""A device that classifies the photos of a folder and cuts where the server recommends.

    python examples/device_app.py photos/ --url http://127.0.0.1:8080 --model resnet50 \
        --head resnet50.head.zip --key-file key_file.json

It needs only the light client: pip install '.[onnx]' in a checkout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from isplit_plugin.client import SplitClient, read_key
from isplit_plugin.errors import (
    BundleError,
    ImageError,
    IsplitError,
    NetworkMismatchError,
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
        token=lambda: read_key(options.key_file),  # read again when the token has expired
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
    except (ImageError, TransportError, BundleError) as error:
        print(f"{photo.name}: not classified, {error.message}")
    else:
        print(
            f"{photo.name}: {prediction.label} ({prediction.probability:.0%}), "
            f"cut at {prediction.cut}, {prediction.bytes_sent} bytes sent, "
            f"{prediction.timings.total_ms:.0f} ms"
        )
    return cut


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of photos")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="inference address")
    parser.add_argument("--model", required=True, help="name that the model is registered by")
    parser.add_argument("--head", required=True, type=Path, help="head bundle, MODEL.head.zip")
    parser.add_argument("--key-file", required=True, type=Path, help="TorchServe's key file")
    parser.add_argument("--cut", help="cut to start with, such as layer2:uint8+zstd")
    return parser.parse_args()


if __name__ == "__main__":
    main()
