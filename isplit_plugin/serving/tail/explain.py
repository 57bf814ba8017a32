"""Explanations: the CUI curve of one input for its predicted class, from the cut onwards."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from ...errors import SplitPointError, WireSizeError
from ...schema import Manifest
from .request import TailJob
from .runner import TailRunner

COST: Final = 4
"""Cost of an explanation against a prediction: a backward pass, with all activations kept for it.
"""


def explain(job: TailJob, runner: TailRunner, manifest: Manifest) -> dict[str, Any]:
    """The JSON answer, with one curve for each item.

    Raises SplitPointError at a bottleneck, whose importance is another network's, and WireSizeError
    for too many items.
    """
    split_point = job.request.split_point
    if split_point in runner.bottlenecks:
        raise SplitPointError(
            f"{split_point!r} is a bottleneck: importance is explained at split points of the original network"
        )
    limit = max(runner.max_items // COST, 1)
    if len(job.values) > limit:
        raise WireSizeError(
            f"expected at most {limit} items to explain, got {len(job.values)}", limit=limit
        )
    values = runner.tensor(split_point, job.values)
    importance = runner.net.importance_from(split_point, values)
    items = []
    targets = np.asarray(importance.target)
    for row, target in zip(np.asarray(importance.values), targets, strict=True):
        curve = [
            {"split_point": name, "cui": float(value)}
            for name, value in zip(importance.split_points, row, strict=True)
            if math.isfinite(value)
        ]
        class_id = int(target)
        items.append({"class_id": class_id, "label": _label(manifest, class_id), "curve": curve})
    return {
        "model": manifest.model,
        "version": manifest.version,
        "network_hash": manifest.network_hash,
        "cut": str(job.request.cut),
        "split_point": split_point,
        "codec": job.request.codec,
        "items": items,
    }


def _label(manifest: Manifest, class_id: int) -> str:
    labels = manifest.classes
    return labels[class_id] if class_id < len(labels) else str(class_id)
