"""Trained bottlenecks in a package: what a profile learns of them, and which files carry them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..errors import BundleError, NetworkMismatchError
from ..profile import Profile, VariantMeasure
from ..schema import Manifest

if TYPE_CHECKING:
    from ..bottleneck import Variant
    from ..network import CapturedNetwork

_RUNS = 9


def variant_file(name: str) -> str:
    """The file of a variant in an archive."""
    from ..bottleneck import SUFFIX

    return f"{name}{SUFFIX}"


def check_variants(variants: Sequence[Variant], network_hash: str) -> None:
    """Raises NetworkMismatchError for a variant of another network, BundleError for the same one twice."""
    names = [v.deployed_name for v in variants]
    for variant in variants:
        if variant.network_hash != network_hash:
            raise NetworkMismatchError(
                f"bottleneck {variant.name!r} belongs to network {variant.network_hash}, this one is {network_hash}",
                expected=network_hash,
                found=variant.network_hash,
            )
        if names.count(variant.deployed_name) > 1:
            raise BundleError(f"bottleneck {variant.deployed_name!r} is given twice")


def with_variants(profile: Profile, net: CapturedNetwork, variants: Sequence[Variant]) -> Profile:
    """The profile with what was measured of these variants: bytes, agreement, and times of one image on one thread.

    Their importance is another network's and stays out. Agreement counts for classes that the profile has seen.
    """
    if not variants:
        return profile
    from ..network.execution import cpu_threads, on_device

    on_cpu = on_device(net, "cpu")
    names = {v.deployed_name for v in variants}
    measures = [m for m in profile.measures if m.split_point not in names]
    head_ms, tail_ms = dict(profile.head_ms), dict(profile.tail_ms)
    for variant in variants:
        name, point = variant.deployed_name, variant.split_point
        with cpu_threads(1):
            code = torch.zeros(1, *variant.code_shape)
            activation = torch.zeros(1, *on_cpu.split_point(point).shape)
            if point in head_ms:
                head_ms[name] = head_ms[point] + _milliseconds(variant.encoder, activation)
            if point in tail_ms:
                tail_ms[name] = tail_ms[point] + _milliseconds(variant.decoder, code)
        measures += [
            VariantMeasure(
                split_point=name,
                codec=m.codec,
                nbytes=m.nbytes,
                encode_ms=m.encode_ms,
                decode_ms=m.decode_ms,
                seen=m.seen[profile.class_ids],
                agree=m.agree[profile.class_ids],
            )
            for m in variant.measures
        ]
    return replace(profile, measures=tuple(measures), head_ms=head_ms, tail_ms=tail_ms)


def load_variants(folder: Path, net: CapturedNetwork, manifest: Manifest) -> Mapping[str, nn.Module]:
    """The tails of a manifest's variants, each behind its decoder: code -> scores. Raises ArtifactError and its kin."""
    from ..bottleneck import decoder_tail, load_bottleneck

    tails = {}
    for place in manifest.variants:
        name = place.point.name
        variant = load_bottleneck(folder / variant_file(name), net)
        check_variants([variant], manifest.network_hash)
        if (variant.deployed_name, variant.code_shape) != (name, place.point.shape):
            raise BundleError(f"{variant_file(name)} holds {variant.deployed_name!r}: it is not the one packaged")
        tails[name] = decoder_tail(net, variant)
    return tails


def _milliseconds(part: nn.Module, x: torch.Tensor) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(_RUNS):
            start = time.perf_counter()
            part(x)
            times.append(1e3 * (time.perf_counter() - start))
    return median(times)
