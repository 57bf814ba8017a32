"""Transforms in a package: which are shipped, and the files that carry them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import ArtifactError
from ...schema import Manifest, SplitPoint
from ...wire import Transform, check_transform, load_transforms, save_transforms


def transform_file(split_point: str) -> str:
    """The file of a transform in an archive."""
    return f"{split_point}.transform.safetensors"


def shipped_transforms(
    transforms: Sequence[Transform],
    network_hash: str,
    points: Sequence[SplitPoint],
    deployed: Sequence[str],
) -> dict[str, Transform]:
    """The transforms of the deployed split points.

    Raises NetworkMismatchError for another network's transform, ArtifactError for one of another
    split point or shape.
    """
    by_name = {point.name: point for point in points}
    for transform in transforms:
        name = transform.split_point
        if name not in by_name:
            raise ArtifactError(f"transform of {name!r}: the network has no such split point")
        check_transform(transform, network_hash, by_name[name], where=f"transform of {name!r}")
    return {t.split_point: t for t in transforms if t.split_point in deployed}


def write_transforms(
    folder: Path, transforms: Sequence[Transform], manifest: Manifest, *, bundle: bool
) -> None:
    """Write the manifest's transforms, each into a file of its own.

    ``bundle``: as a head bundle has them, in a folder ``transforms``, instead of an archive.
    """
    for transform in transforms:
        name = transform.split_point
        if name not in manifest.transforms:
            continue
        path = folder / transform_file(name)
        if bundle:
            path = folder / "transforms" / f"{name}.safetensors"
            path.parent.mkdir(exist_ok=True)
        save_transforms(path, [transform])


def deployed_transforms(folder: Path, manifest: Manifest) -> Mapping[str, Transform]:
    """The transforms of an archive by split point.

    Raises ArtifactError, NetworkMismatchError for a file that does not fit the manifest.
    """
    transforms = {}
    for name in manifest.transforms:
        file = transform_file(name)
        loaded = load_transforms(folder / file)
        if len(loaded) != 1:
            raise ArtifactError(f"{file}: expected one transform, got {len(loaded)}")
        check_transform(loaded[0], manifest.network_hash, manifest.split_point(name), where=file)
        transforms[name] = loaded[0]
    return transforms
