"""The names of the files in an archive, and their hashes."""

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
"""The name under which the recommendation endpoint is registered; no split model can have it."""


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file that the manifest names with its hash. Raises BundleError naming the first that differs."""
    for name, expected in manifest.files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_file():
            raise BundleError(
                f"{name} is missing from the archive of {manifest.model!r}", file=name
            )
        found = file_sha256(path)
        if found != expected:
            raise BundleError(
                f"{name} of model {manifest.model!r} is not the file that was packaged: its SHA-256 is {found}, "
                f"expected {expected}",
                file=name,
            )
