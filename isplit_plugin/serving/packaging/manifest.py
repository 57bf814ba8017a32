"""The manifest of a model: names, deployed split points, codecs, and the cut that a client starts
with.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...errors import BundleError, ProfileError, UnknownCodecError, UnknownSplitPointError
from ...photo_codecs import PHOTOS
from ...profile import Profile
from ...schema import (
    INPUT,
    NO_CODEC,
    OUTPUT,
    PHOTO_FILE,
    TRANSFORM_CODEC,
    Cut,
    Manifest,
    Preprocessing,
    Refinement,
)
from ...wire import CODECS, Transform, codings, is_codec, needs_transform
from ..files import ENDPOINT_MODEL
from .bottlenecks import check_bottlenecks
from .deployment import choose_deployed, first_cut, usual_cuts
from .transforms import shipped_transforms

if TYPE_CHECKING:
    from ...bottleneck import Bottleneck
    from ...network import CapturedNetwork

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}\Z")
_PACKAGES = ("isplit-plugin", "torch", "onnx", "torch-model-archiver")


def make_manifest(
    net: CapturedNetwork,
    *,
    model: str,
    version: str,
    profile: Profile,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    deployed: Sequence[str] | None = None,
    codecs: Sequence[str] | None = None,
    default: Cut | None = None,
    bottlenecks: Sequence[Bottleneck] = (),
    transforms: Sequence[Transform] = (),
    correctors: Collection[str] = (),
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest of a model, without files, and warnings for the operator.

    Parameters:
        deployed: split points by any of their names; by default :func:`choose_deployed`.
        codecs: those that the tail accepts, each in all its qualities, and codings such as
            ``dct@3``; by default the usual ones and the codings of the profile.
        default: the cut that a client starts with; by default :func:`first_cut`. A bottleneck may
            be named by its short name.
        bottlenecks: trained for this network, and deployed besides.
        transforms: for the codec ``dct``, which is accepted at their split points.
        correctors: the split points that have one.

    Raises:
        BundleError: a name that TorchServe cannot carry, or nothing to deploy.
        ArtifactError: a transform is another split point's.
        ProfileError, NetworkMismatchError: the profile, a bottleneck or a transform is another
            network's.
        UnknownSplitPointError, UnknownCodecError: of something that is not there.
    """
    from ...bottleneck import bottleneck_point

    _check_names(model, version)
    network_hash = _check_network(net, profile, preprocessing)
    check_bottlenecks(bottlenecks, network_hash)
    bottleneck_points = tuple(bottleneck_point(net, bottleneck) for bottleneck in bottlenecks)
    if deployed is None:
        deployed = choose_deployed(_without_transforms(profile, transforms))
    names = [net.split_point(name).name for name in deployed]
    names += [bottleneck.point.name for bottleneck in bottleneck_points]
    deployed = tuple(dict.fromkeys(names))
    if not deployed:
        raise BundleError("no split point to deploy: name at least one")
    shipped = shipped_transforms(transforms, network_hash, net.split_points, deployed)
    profile = _without_transforms(profile, tuple(shipped.values()))
    accepted = _accepted_codecs(profile, codecs, has_transforms=bool(shipped))
    photos = _accepted_photos(profile)
    if default is None:
        default = first_cut(profile, deployed, accepted, photos)
    else:
        default = _check_default(
            net,
            default,
            deployed,
            (*accepted, *photos),
            bottlenecks=bottlenecks,
            transforms=shipped,
        )
    manifest = Manifest(
        model=model,
        version=version,
        network_hash=network_hash,
        input_shape=preprocessing.shape,
        preprocessing=preprocessing,
        classes=tuple(classes),
        split_points=tuple(net.split_points),
        deployed=deployed,
        codecs=accepted,
        default=default,
        created_with=_created_with(),
        bottlenecks=bottleneck_points,
        photos=photos,
        usual=usual_cuts(profile, deployed, accepted, photos),
        transforms=tuple(name for name in deployed if name in shipped),
        correctors=tuple(name for name in deployed if name in shipped and name in correctors),
        refinements=_refinements(profile, shipped, accepted),
    )
    return manifest, _warnings(net, profile, manifest)


def _check_names(model: str, version: str) -> None:
    expected = "expected letters, digits, '_', '-', '.', at most 100"
    if not _NAME.match(model) or model == ENDPOINT_MODEL:
        raise BundleError(f"model name {model[:120]!r}: {expected}, not {ENDPOINT_MODEL!r}")
    if not _NAME.match(version):
        raise BundleError(f"version {version[:120]!r}: {expected}")


def _check_network(net: CapturedNetwork, profile: Profile, preprocessing: Preprocessing) -> str:
    """The network hash, where network, profile and preprocessing fit together."""
    if tuple(net.input_shape) != preprocessing.shape:
        raise BundleError(
            f"preprocessing makes {preprocessing.shape}, the network takes {tuple(net.input_shape)}"
        )
    network_hash = net.network_hash(preprocessing)
    if profile.network_hash != network_hash:
        raise ProfileError(
            f"the profile of {profile.model!r} belongs to network {profile.network_hash}, this one "
            f"is {network_hash}: other weights, another graph or other preprocessing; profile this "
            "network",
            profile=profile.network_hash,
            network=network_hash,
        )
    return network_hash


def _accepted_codecs(
    profile: Profile, codecs: Sequence[str] | None, *, has_transforms: bool
) -> tuple[str, ...]:
    """The codings of activations that the tail accepts. Raises UnknownCodecError."""
    if codecs is None:
        measured = (m.cut.coding for m in profile.measurements)
        fitted = (TRANSFORM_CODEC,) if has_transforms else ()
        codecs = (*CODECS, *(coding for coding in measured if is_codec(coding)), *fitted)
    return tuple(c for c in codings(codecs) if has_transforms or not needs_transform(c))


def _without_transforms(profile: Profile, transforms: Sequence[Transform]) -> Profile:
    """The profile without the measurements of codecs that need a transform that is not there."""
    names = {transform.split_point for transform in transforms}
    measurements = tuple(
        m for m in profile.measurements if m.split_point in names or m.codec != TRANSFORM_CODEC
    )
    if len(measurements) == len(profile.measurements):
        return profile
    return replace(profile, measurements=measurements)


def _refinements(
    profile: Profile, transforms: Collection[str], codecs: Sequence[str]
) -> tuple[Refinement, ...]:
    """The proven refinements of split points with a transform, where the codings are accepted."""
    return tuple(
        refinement
        for refinement in profile.refinements
        if refinement.split_point in transforms
        and refinement.is_proven
        and {c.coding for cut in refinement.cuts for c in (cut.first, cut.second)} <= {*codecs}
    )


def _accepted_photos(profile: Profile) -> tuple[str, ...]:
    """The codings of photos that the tail accepts, :data:`PHOTO_FILE` aside."""
    measured = (m.cut.coding for m in profile.measurements if m.cut.is_photo)
    return tuple(dict.fromkeys(coding for coding in (*PHOTOS, *measured) if coding != PHOTO_FILE))


def _check_default(
    net: CapturedNetwork,
    cut: Cut,
    deployed: Sequence[str],
    codecs: Sequence[str],
    *,
    bottlenecks: Sequence[Bottleneck],
    transforms: Collection[str],
) -> Cut:
    """The cut under the name that its split point is deployed by."""
    if cut.split_point in (INPUT, OUTPUT):
        special = (NO_CODEC,) if cut.split_point == OUTPUT else (*codecs, PHOTO_FILE)
        if cut.coding not in special:
            raise UnknownCodecError.of(cut.coding, special)
        return cut
    short_names = {bottleneck.name: bottleneck.deployed_name for bottleneck in bottlenecks}
    name = short_names.get(cut.split_point, cut.split_point)
    if name not in deployed:
        name = net.split_point(name).name
    if name not in deployed:
        raise UnknownSplitPointError.of(cut.split_point, (INPUT, *deployed, OUTPUT))
    if name not in transforms:
        codecs = [c for c in codecs if c.partition("@")[0] != TRANSFORM_CODEC]
    if cut.coding not in codecs:
        raise UnknownCodecError.of(cut.coding, codecs)
    return replace(cut, split_point=name)


def _warnings(net: CapturedNetwork, profile: Profile, manifest: Manifest) -> tuple[str, ...]:
    warnings = []
    measured = {m.split_point for m in profile.measurements}
    unmeasured = [name for name in manifest.deployed if name not in measured]
    if unmeasured:
        warnings.append(
            f"the profile never measured {', '.join(unmeasured)}: served, but never recommended "
            "until it is measured"
        )
    if net.classes != len(manifest.classes):
        warnings.append(f"the network has {net.classes} classes, {len(manifest.classes)} are named")
    if tuple(profile.classes) != manifest.classes:
        warnings.append("the profile's classes are named differently from the model's")
    return tuple(warnings)


def _created_with() -> dict[str, str]:
    """Versions of Python and of the packages that matter, where they are installed."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
