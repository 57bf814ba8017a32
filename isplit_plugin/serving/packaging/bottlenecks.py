"""Trained bottlenecks in a package: their part of the profile, and the files that carry them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...errors import BundleError, NetworkMismatchError
from ...profile import CutMeasurement, Profile
from ...schema import Cut, Manifest

if TYPE_CHECKING:
    from ...bottleneck import Bottleneck
    from ...network import CapturedNetwork

_RUNS = 9


def bottleneck_file(name: str) -> str:
    """The file of a bottleneck in an archive."""
    from ...bottleneck import BOTTLENECK_SUFFIX

    return f"{name}{BOTTLENECK_SUFFIX}"


def check_bottlenecks(bottlenecks: Sequence[Bottleneck], network_hash: str) -> None:
    """Raise NetworkMismatchError for another network's bottleneck, BundleError for one that is
    given twice.
    """
    names = [v.deployed_name for v in bottlenecks]
    for bottleneck in bottlenecks:
        if bottleneck.network_hash != network_hash:
            raise NetworkMismatchError(
                f"bottleneck {bottleneck.name!r} belongs to network {bottleneck.network_hash}, "
                f"this one is {network_hash}",
                expected=network_hash,
                found=bottleneck.network_hash,
            )
        if names.count(bottleneck.deployed_name) > 1:
            raise BundleError(f"bottleneck {bottleneck.deployed_name!r} is given twice")


def with_bottlenecks(
    profile: Profile, net: CapturedNetwork, bottlenecks: Sequence[Bottleneck]
) -> Profile:
    """The profile with the measurements of these bottlenecks, and the times of one image on one
    thread.

    Their importance is another network's and stays out. Agreement covers the classes of the
    profile.
    """
    if not bottlenecks:
        return profile
    from ...network import cpu_threads, on_device

    on_cpu = on_device(net, "cpu")
    names = {v.deployed_name for v in bottlenecks}
    measurements = [m for m in profile.measurements if m.split_point not in names]
    head_ms, tail_ms = dict(profile.head_ms), dict(profile.tail_ms)
    for bottleneck in bottlenecks:
        name, point = bottleneck.deployed_name, bottleneck.split_point
        with cpu_threads(1):
            code = torch.zeros(1, *bottleneck.code_shape)
            activation = torch.zeros(1, *on_cpu.split_point(point).shape)
            if point in head_ms:
                head_ms[name] = head_ms[point] + _milliseconds(bottleneck.encoder, activation)
            if point in tail_ms:
                tail_ms[name] = tail_ms[point] + _milliseconds(bottleneck.decoder, code)
        measurements += [
            CutMeasurement(
                cut=Cut.of(name, m.codec),
                nbytes=m.nbytes,
                encode_ms=m.encode_ms,
                decode_ms=m.decode_ms,
                images=m.images[profile.class_ids],
                agreeing=m.agreeing[profile.class_ids],
            )
            for m in bottleneck.measurements
        ]
    return replace(profile, measurements=tuple(measurements), head_ms=head_ms, tail_ms=tail_ms)


def load_bottlenecks(
    folder: Path, net: CapturedNetwork, manifest: Manifest
) -> Mapping[str, nn.Module]:
    """The tails of a manifest's bottlenecks, each behind its decoder: from code to scores.

    Raises ArtifactError and its kinds.
    """
    from ...bottleneck import decoder_tail, load_bottleneck

    tails = {}
    for expected in manifest.bottlenecks:
        name = expected.point.name
        bottleneck = load_bottleneck(folder / bottleneck_file(name), net)
        check_bottlenecks([bottleneck], manifest.network_hash)
        if (bottleneck.deployed_name, bottleneck.code_shape) != (name, expected.point.shape):
            raise BundleError(
                f"{bottleneck_file(name)}: expected the bottleneck {name!r}, "
                f"got {bottleneck.deployed_name!r}"
            )
        tails[name] = decoder_tail(net, bottleneck)
    return tails


def _milliseconds(part: nn.Module, x: torch.Tensor) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(_RUNS):
            start = time.perf_counter()
            part(x)
            times.append(1e3 * (time.perf_counter() - start))
    return median(times)
