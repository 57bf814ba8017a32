"""Correctors in a package: which are shipped, and the files that carry them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...errors import ArtifactError
from ...profile import Profile
from ...schema import TRANSFORM_CODEC, Manifest
from ...wire import Transform

if TYPE_CHECKING:
    from ...network import Corrector


def corrector_file(split_point: str) -> str:
    """The file of a corrector in an archive."""
    return f"{split_point}.corrector.safetensors"


def check_correctors(
    profile: Profile, correctors: Mapping[str, Corrector], transforms: Mapping[str, Transform]
) -> Profile:
    """The profile for these correctors.

    Where ``dct`` was measured with a corrector that is not there, the measurements are left out:
    without it the tail gives other answers.

    Raises ArtifactError for a corrector without its transform, and for one that the profile was not
    measured with.
    """
    from ...network import corrector_sha256

    for name, corrector in correctors.items():
        if name not in transforms:
            raise ArtifactError(f"corrector of {name!r}: its transform is missing")
        expected, found = (
            profile.correctors.get(name),
            corrector_sha256(corrector, transforms[name]),
        )
        if found != expected:
            raise ArtifactError(
                f"corrector of {name!r}: expected the one that the profile was measured with "
                f"({expected[:16] if expected else 'none'}), got {found[:16]}"
            )
    missing = set(profile.correctors) - set(correctors)
    if not missing:
        return profile
    measurements = tuple(
        m
        for m in profile.measurements
        if m.codec != TRANSFORM_CODEC or m.split_point not in missing
    )
    kept = {name: sha256 for name, sha256 in profile.correctors.items() if name not in missing}
    return replace(profile, measurements=measurements, correctors=kept)


def write_correctors(
    folder: Path,
    correctors: Mapping[str, Corrector],
    transforms: Mapping[str, Transform],
    manifest: Manifest,
) -> None:
    """Write the manifest's correctors into an archive, each into a file of its own."""
    from ...network import save_correctors

    for name in manifest.correctors:
        save_correctors(folder / corrector_file(name), {name: correctors[name]}, transforms)


def deployed_correctors(
    folder: Path, manifest: Manifest, transforms: Mapping[str, Transform], device: torch.device
) -> Mapping[str, Corrector]:
    """The correctors of an archive by split point, on a device.

    Raises ArtifactError, NetworkMismatchError for a file that does not fit the manifest.
    """
    from ...network import load_correctors

    correctors = {}
    for name in manifest.correctors:
        file = corrector_file(name)
        loaded = load_correctors(folder / file, transforms)
        if list(loaded) != [name]:
            raise ArtifactError(f"{file}: expected the corrector of {name!r}, got {list(loaded)}")
        correctors[name] = loaded[name].to(device)
    return correctors
