"""The files of an archive: their names, and the check of their hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..errors import BundleError
from ..files import file_sha256
from ..schema import Manifest

MANIFEST: Final = "manifest.json"
NETWORK: Final = "network.pt2"
PROFILE: Final = "profile.safetensors"
ENDPOINT_MODEL: Final = "isplit"
"""The TorchServe model name of the endpoint. No split model can have this name."""


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file that the manifest names with its SHA-256.

    Raises:
        BundleError: a file is missing or differs; the message names the first one.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        outside = Path(name).is_absolute() or ".." in Path(name).parts
        if outside or not path.is_file():
            raise BundleError(
                f"{name} is missing from the archive of {manifest.model!r}", file=name
            )
        actual = file_sha256(path)
        if actual != expected:
            raise BundleError(
                f"{name} of model {manifest.model!r} is not the file that was packaged: "
                f"expected SHA-256 {expected}, got {actual}",
                file=name,
            )
