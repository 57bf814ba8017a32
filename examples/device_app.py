"""A device that classifies every photo of a folder, and asks now and then where it should cut.

    python examples/device_app.py photos/ --url http://127.0.0.1:8080 --model resnet50 \
        --head resnet50.head.zip --key-file key_file.json

Needs the light client only: pip install 'isplit-plugin[onnx]'.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from isplit_plugin.client import SplitClient
from isplit_plugin.errors import ImageError, ServerUnavailableError, TransportError

ASK_EVERY = 50
"""Photos between two questions. The answer changes slowly: it needs evidence to change at all."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--model", required=True)
    parser.add_argument("--head", required=True, type=Path)
    parser.add_argument("--key-file", required=True, type=Path)
    options = parser.parse_args()

    def token() -> str:
        # Called again when the server says that the token has expired.
        key: str = json.loads(options.key_file.read_text())["inference"]["key"]
        return key

    with (
        SplitClient(
            options.url,
            model=options.model,
            head=options.head,
            token=token,
            local_fallback=True,  # the whole network runs here while the server is away, if the bundle has it
            raw_scores=False,
        ) as client
    ):
        for number, photo in enumerate(sorted(options.folder.iterdir())):
            if number % ASK_EVERY == 0:
                try:
                    advice = client.recommendation()
                    client.use(advice)
                    print(f"cutting at {advice.cut}: {advice.use.reason}")
                except TransportError as error:
                    print(f"no advice now ({error.message}); going on as before")
            try:
                prediction = client.predict(photo)
            except ImageError as error:
                print(f"{photo.name}: {error.message}")
            except ServerUnavailableError as error:
                print(f"{photo.name}: not classified, {error.message}")
            else:
                where = f"cut at {prediction.split_point}, {prediction.bytes_sent} bytes"
                took = f"{prediction.timings.total_ms:.0f} ms"
                print(
                    f"{photo.name}: {prediction.label} ({prediction.probability:.0%}), {where}, {took}"
                )


if __name__ == "__main__":
    main()
