"""Photos of a kind, without torch: devices make them, too."""

from __future__ import annotations

import numpy as np

_NOISE = 14.0


def photos_of(prototype: np.ndarray, count: int, random: np.random.Generator) -> list[np.ndarray]:
    """Photos that are a prototype with coarse noise, which pooling does not average out."""
    coarse = random.normal(scale=_NOISE, size=(count, 4, 4, 3))
    noise = coarse.repeat(4, axis=1).repeat(4, axis=2)
    return list(np.clip(prototype + noise, 0, 255).round().astype(np.uint8))
