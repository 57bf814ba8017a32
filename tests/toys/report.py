"""A profile of forty points with everything that is awkward to draw: a zero, six decades, a class
of one image.
"""

from __future__ import annotations

import numpy as np

from isplit_plugin.profile import CutMeasurement, Profile
from isplit_plugin.schema import Cut, Macs, Manifest, Preprocessing, SplitPoint

CLASSES = (
    "tabby <b>cat</b>",
    "$x^2$ & co",
    "Ünïcode 猫",
    'quote"s',
    "never seen",
    "a class with a very long name " * 3,
)


def make_profile(points: int = 40, *, blocks: bool = True, jpeg: bool = True) -> Profile:
    rng = np.random.default_rng(0)
    names = [f"layer{i // 10 + 1}.{i % 10}" for i in range(points)]
    split_points = tuple(
        SplitPoint(n, (), (8, 4, 4), "float32", 800_000 // (i + 1), Macs(i * 10**6, (points - i) * 10**6), 1,
                   (0, 1, 2, 3), blocks and i % 2 == 0)
        for i, n in enumerate(names)
    )  # fmt: skip
    mean = 10 ** (-5 + 3 * np.arange(points) / points + np.sin(np.arange(points)))
    mean[points // 2] = 0.0
    mean[points // 4] = 1e-11
    owner = np.array([0] * 8 + [1] * 6 + [2] * 4 + [3] + [5] * 5)
    values = (
        mean * rng.lognormal(0, 0.3, (len(owner), 1)) * rng.lognormal(0, 0.2, (len(owner), points))
    )
    ids = np.unique(owner)
    mean0 = values.mean(axis=0)
    shifted = values - mean0
    within = np.concatenate([values[owner == c] - values[owner == c].mean(axis=0) for c in ids])
    count = np.array([(owner == c).sum() for c in ids])

    def measure(split_point: str, codec: str, nbytes: float, lost: int = 0) -> CutMeasurement:
        agreeing = count.copy()
        agreeing[0] -= lost
        return CutMeasurement(Cut.of(split_point, codec), nbytes, 0.1, 0.2, count, agreeing)

    measurements = [measure("input", "fp32", 602112), measure("output", "none", 0)]
    measurements += [measure("input", "jpeg@90", 17144)] if jpeg else []
    for i, name in enumerate(names):
        if i % 2 == 0:
            measurements += [
                measure(name, "fp32", 800_000 / (i + 1)),
                measure(name, "uint8", 200_000 / (i + 1), 3),
                measure(name, "uint8+zstd", 120_000 / (i + 1)),
            ]
    times = np.linspace(0, 40, points + 2)
    everywhere = ["input", *names, "output"]
    return Profile(
        model="<script>alert(1)</script>",
        network_hash="ab" * 32,
        classes=CLASSES,
        split_points=split_points,
        preprocessing=Preprocessing(crop=(8, 8)),
        target="predicted",
        class_ids=ids,
        count=count,
        mean0=mean0,
        sum1=np.stack([shifted[owner == c].sum(axis=0) for c in ids]),
        sum2=np.stack([(shifted[owner == c] ** 2).sum(axis=0) for c in ids]),
        comoment=within.T @ within,
        comoment_dof=len(owner) - len(ids),
        head_ms=dict(zip(everywhere, times.tolist(), strict=True)),
        tail_ms=dict(zip(everywhere, times[::-1].tolist(), strict=True)),
        measurements=tuple(measurements),
        accuracy=0.75,
        provenance={"torch": "2.15 <i>", "skipped_names": "a.jpg, " * 30},
    )


def make_manifest(profile: Profile) -> Manifest:
    return Manifest(
        model=profile.model,
        version="1.0",
        network_hash=profile.network_hash,
        input_shape=(3, 8, 8),
        preprocessing=profile.preprocessing,
        classes=profile.classes,
        split_points=profile.split_points,
        deployed=("layer2.4", "layer4.8"),
        codecs=("fp32", "uint8+zstd"),
        default=Cut("layer2.4", "uint8+zstd"),
    )
