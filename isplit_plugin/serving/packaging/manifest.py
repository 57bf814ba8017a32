"""Decide what a package serves: names, deployed split points, codecs, and the default a client starts with."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...advice import smallest_codec
from ...errors import BundleError, ProfileError, UnknownCodecError, UnknownSplitPointError
from ...profile import Profile
from ...schema import INPUT, OUTPUT, Manifest, Preprocessing
from ...wire import CODECS, IMAGE_CODECS, codec_names, unknown_codec
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
    default: tuple[str, str] | None = None,
    bottlenecks: Sequence[Bottleneck] = (),
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest of a model, without files, and warnings.

    Parameters: ``deployed``, split points by any of their names; ``default``, the (split point, codec) a client starts
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
    measured = [m.codec for m in profile.measures if m.codec in codec_names()]
    accepted = tuple(dict.fromkeys((*CODECS, *measured) if codecs is None else codecs))
    for codec in accepted:
        if codec not in codec_names():
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
        default=_default(net, profile, chosen, accepted, _by_name(default, bottlenecks)),
        created_with=_created_with(),
        bottlenecks=places,
    )
    return manifest, _warnings(net, profile, manifest)


def choose_deployed(profile: Profile) -> tuple[str, ...]:
    """The measured points whose smallest faithful codec undercuts the JPEG, in execution order; where none does, the
    three smallest. Faithful: agreement within one percentage point of the best codec of that point."""
    smallest: dict[str, float] = {}
    jpeg = min((m.nbytes for m in profile.measures if m.split_point == INPUT), default=float("inf"))
    for point in (p.name for p in profile.split_points):
        measures = [m for m in profile.measures if m.split_point == point]
        shares = [m.agree.sum() / max(m.seen.sum(), 1) for m in measures]
        faithful = [
            m.nbytes for m, s in zip(measures, shares, strict=True) if s >= max(shares) - 0.01
        ]
        if faithful:
            smallest[point] = min(faithful)
    below = tuple(p for p, n in smallest.items() if n < jpeg)
    if below:
        return below
    top = sorted(smallest, key=smallest.__getitem__)[:3]
    return tuple(p for p in smallest if p in top)


def _default(
    net: CapturedNetwork,
    profile: Profile,
    deployed: Sequence[str],
    codecs: Sequence[str],
    asked: tuple[str, str] | None,
) -> tuple[str, str]:
    if asked is None:
        return _first_choice(profile, deployed, codecs)
    point, codec = asked
    if point in (INPUT, OUTPUT):
        known: tuple[str, ...] = IMAGE_CODECS if point == INPUT else ("none",)
        if codec not in (*known, *codecs):
            raise UnknownCodecError.of(codec, known)
        return point, codec
    name = point if point in deployed else net.split_point(point).name
    if name not in deployed:
        raise UnknownSplitPointError.of(point, (INPUT, *deployed, OUTPUT))
    if codec not in codecs:
        raise UnknownCodecError.of(codec, codecs)
    return name, codec


def _first_choice(
    profile: Profile, deployed: Sequence[str], codecs: Sequence[str]
) -> tuple[str, str]:
    """What a client does until it has asked: the earliest cut that undercuts the JPEG as plain as can be, else the
    smallest faithful pair there is, else the first cut."""
    plain = "uint8+zstd" if "uint8+zstd" in codecs else codecs[0]
    jpeg = profile.measure(INPUT, "jpeg")
    for point in deployed:
        measure = profile.measure(point, plain)
        if jpeg is not None and measure is not None and measure.nbytes < jpeg.nbytes:
            return point, plain
    originals = {p.name for p in profile.split_points}
    found = [
        s.measure
        for p in deployed
        if p in originals and (s := smallest_codec(profile, p)) is not None
    ]
    smallest = min((m for m in found if m.codec in codecs), key=lambda m: m.nbytes, default=None)
    return (deployed[0], plain) if smallest is None else (smallest.split_point, smallest.codec)


def _by_name(
    default: tuple[str, str] | None, bottlenecks: Sequence[Bottleneck]
) -> tuple[str, str] | None:
    """A default that names a bottleneck without its digits gets them."""
    if default is None:
        return None
    return next(
        (v.deployed_name for v in bottlenecks if v.name == default[0]), default[0]
    ), default[1]


def _warnings(net: CapturedNetwork, profile: Profile, manifest: Manifest) -> tuple[str, ...]:
    found = []
    measured = {m.split_point for m in profile.measures}
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
