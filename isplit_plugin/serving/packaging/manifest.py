"""Decide what a package serves: names, deployed split points, codecs, and the default a client starts with."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...advice import smallest_codec
from ...errors import BundleError, ProfileError, UnknownCodecError, UnknownSplitPointError
from ...profile import Profile
from ...schema import INPUT, NO_CODEC, OUTPUT, Cut, Manifest, Preprocessing
from ...wire import CODECS, IMAGE_CODECS, codec_names, is_codec, unknown_codec
from ..files import ENDPOINT_MODEL
from .bottlenecks import check_bottlenecks

if TYPE_CHECKING:
    from ...bottleneck import Bottleneck
    from ...network import CapturedNetwork

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}\Z")


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
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest of a model, without files, and warnings.

    Parameters: ``deployed``, split points by any of their names; ``default``, the cut that a client starts
    with, by default the first deployed point with ``uint8+zstd``; ``codecs``, those that the tail accepts, by default
    the usual ones and those that the profile measured; ``bottlenecks``, trained bottlenecks of this network, deployed
    besides under their ``deployed_name`` (``default`` may use their ``name``).

    Raises ProfileError where the profile is another network's, NetworkMismatchError where a bottleneck is,
    UnknownSplitPointError, UnknownCodecError, BundleError for names TorchServe cannot carry.
    """
    if not _NAME.match(model) or model == ENDPOINT_MODEL:
        raise BundleError(
            f"model name {model[:120]!r}: expected letters, digits, '_', '-', '.', at most 100, not {ENDPOINT_MODEL!r}"
        )
    if not _NAME.match(version):
        raise BundleError(
            f"version {version[:120]!r}: expected letters, digits, '_', '-', '.', at most 100"
        )
    if tuple(net.input_shape) != preprocessing.shape:
        raise BundleError(
            f"preprocessing makes {preprocessing.shape}, the network takes {tuple(net.input_shape)}"
        )
    network_hash = net.network_hash(preprocessing)
    if profile.network_hash != network_hash:
        raise ProfileError(
            f"the profile of {profile.model!r} belongs to network {profile.network_hash}, this one is {network_hash}: "
            "other weights, another graph or other preprocessing; profile this network",
            profile=profile.network_hash,
            network=network_hash,
        )
    from ...bottleneck import bottleneck_point

    check_bottlenecks(bottlenecks, network_hash)
    places = tuple(bottleneck_point(net, v) for v in bottlenecks)
    points = choose_deployed(profile) if deployed is None else deployed
    chosen = tuple(
        dict.fromkeys((*(net.split_point(n).name for n in points), *(p.point.name for p in places)))
    )
    if not chosen:
        raise BundleError("no split point to deploy: name at least one")
    measured = [m.codec for m in profile.measurements if is_codec(m.codec)]
    accepted = tuple(dict.fromkeys((*CODECS, *measured) if codecs is None else codecs))
    for codec in accepted:
        if not is_codec(codec):
            raise unknown_codec(codec, codec_names())
    manifest = Manifest(
        model=model,
        version=version,
        network_hash=network_hash,
        input_shape=preprocessing.shape,
        preprocessing=preprocessing,
        classes=tuple(classes),
        split_points=tuple(net.split_points),
        deployed=chosen,
        codecs=accepted,
        default=_default(net, profile, chosen, accepted, _with_deployed_name(default, bottlenecks)),
        created_with=_created_with(),
        bottlenecks=places,
    )
    return manifest, _warnings(net, profile, manifest)


def choose_deployed(profile: Profile) -> tuple[str, ...]:
    """The split points worth deploying, in execution order.

    They are the measured points whose smallest faithful cut takes fewer bytes than the faithful
    photo: the JPEG, or the file where the JPEG is not faithful. If there is no such point, they are
    the three points with the smallest faithful cuts; if no cut is faithful, those with the highest
    agreement.
    """
    measured = {m.split_point for m in profile.measurements}
    points = [point.name for point in profile.split_points if point.name in measured]
    smallest = {point: smallest_codec(profile, point) for point in points}
    nbytes = {name: cut.measure.nbytes for name, cut in smallest.items() if cut is not None}
    photo = _faithful_photo_bytes(profile)
    below = tuple(point for point, size in nbytes.items() if size < photo)
    if below:
        return below
    if nbytes:
        chosen = sorted(nbytes, key=nbytes.__getitem__)[:3]
    else:
        agreement = {
            point: max(m.agreement for m in profile.measurements if m.split_point == point)
            for point in points
        }
        chosen = sorted(agreement, key=agreement.__getitem__, reverse=True)[:3]
    return tuple(point for point in points if point in chosen)


def _faithful_photo_bytes(profile: Profile) -> float:
    """Bytes of the photo as a JPEG, or as the file where no JPEG is faithful; inf if neither is."""
    for codec in IMAGE_CODECS:
        photos = tuple(m for m in profile.measurements if m.cut == Cut(INPUT, codec))
        cut = smallest_codec(replace(profile, measurements=photos), INPUT)
        if cut is not None:
            return cut.measure.nbytes
    return float("inf")


def _default(
    net: CapturedNetwork,
    profile: Profile,
    deployed: Sequence[str],
    codecs: Sequence[str],
    cut: Cut | None,
) -> Cut:
    """``cut`` under the split point's first name, or the first choice. Raises UnknownSplitPointError, UnknownCodecError."""
    if cut is None:
        return _first_choice(profile, deployed, codecs)
    if cut.split_point in (INPUT, OUTPUT):
        special = IMAGE_CODECS if cut.split_point == INPUT else (NO_CODEC,)
        if cut.coding not in (*special, *codecs):
            raise UnknownCodecError.of(cut.coding, special)
        return cut
    name = cut.split_point
    if name not in deployed:
        name = net.split_point(name).name
    if name not in deployed:
        raise UnknownSplitPointError.of(cut.split_point, (INPUT, *deployed, OUTPUT))
    if cut.coding not in codecs:
        raise UnknownCodecError.of(cut.coding, codecs)
    return replace(cut, split_point=name)


def _first_choice(profile: Profile, deployed: Sequence[str], codecs: Sequence[str]) -> Cut:
    """The cut that a client uses until it has asked.

    It is the earliest one whose plain codec takes fewer bytes than the JPEG, else the smallest faithful one, else the
    first.
    """
    plain = "uint8+zstd" if "uint8+zstd" in codecs else codecs[0]
    jpeg = profile.measurement(Cut(INPUT, "jpeg"))
    for point in deployed:
        measurement = profile.measurement(Cut(point, plain))
        if jpeg is not None and measurement is not None and measurement.nbytes < jpeg.nbytes:
            return Cut(point, plain)
    originals = {point.name for point in profile.split_points}
    smallest = [smallest_codec(profile, point) for point in deployed if point in originals]
    measurements = [s.measure for s in smallest if s is not None and s.measure.codec in codecs]
    if not measurements:
        return Cut(deployed[0], plain)
    return min(measurements, key=lambda m: m.nbytes).cut


def _with_deployed_name(cut: Cut | None, bottlenecks: Sequence[Bottleneck]) -> Cut | None:
    """A cut that names a bottleneck by its short name gets the name it is deployed under."""
    if cut is None:
        return None
    names = {b.name: b.deployed_name for b in bottlenecks}
    return replace(cut, split_point=names.get(cut.split_point, cut.split_point))


def _warnings(net: CapturedNetwork, profile: Profile, manifest: Manifest) -> tuple[str, ...]:
    found = []
    measured = {m.split_point for m in profile.measurements}
    unmeasured = [p for p in manifest.deployed if p not in measured]
    if unmeasured:
        found.append(
            f"the profile never measured {', '.join(unmeasured)}: served, but never recommended until it is measured"
        )
    if net.classes != len(manifest.classes):
        found.append(f"the network has {net.classes} classes, {len(manifest.classes)} are named")
    if tuple(profile.classes) != manifest.classes:
        found.append("the profile's classes are named differently from the model's")
    return tuple(found)


def _created_with() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("isplit-plugin", "torch", "onnx", "torch-model-archiver"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
