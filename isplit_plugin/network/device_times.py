"""The times of heads in onnxruntime, the engine of devices.

Engines differ: on one x86 core onnxruntime runs EfficientNet-Lite0 three times as fast as PyTorch,
and takes 44 % of its time to `_blocks.5`, PyTorch 58 %. So the heads of a few split points are
exported and timed as a device runs them. The times of the others follow by interpolation.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from ..errors import CaptureError
from ..schema import INPUT, OUTPUT
from .captured_network import CapturedNetwork
from .export import export_head
from .int8.heads import Int8Heads

__all__ = ["device_head_ms"]

MOST_HEADS: Final = 4
"""Heads that are timed besides the whole network."""
_WARM_UP: Final = 3


def device_head_ms(
    net: CapturedNetwork,
    split_points: Sequence[str],
    estimates: Mapping[str, float],
    *,
    rounds: int = 15,
    int8_heads: Int8Heads | None = None,
) -> dict[str, float] | None:
    """Milliseconds of every head for one image, on one thread of onnxruntime.

    Of ``split_points`` at most :data:`MOST_HEADS` are timed, evenly spaced ones, and `output`. They
    take turns, and each is taken by its median share of the whole network's time, so that other
    processes disturb all alike.

    Parameters:
        split_points: in execution order.
        estimates: milliseconds in another engine at every split point, at `input` and `output`.
            Between the timed heads the times are linear in them.
        int8_heads: which are timed where there are such.

    Returns ``None`` where onnxruntime is not installed, or a head cannot be exported to ONNX.
    """
    names = [*_evenly([name for name in split_points if name in estimates], MOST_HEADS), OUTPUT]
    try:
        sessions = _sessions(net, names, {} if int8_heads is None else int8_heads.files)
    except (ImportError, CaptureError):
        return None
    x = np.random.default_rng(0).random((1, *net.input_shape), dtype=np.float32)
    shares: dict[str, list[float]] = {name: [] for name in names}
    whole_ms: list[float] = []
    for number in range(_WARM_UP + rounds):
        times = {name: _run_ms(session, x) for name, session in sessions.items()}
        if number >= _WARM_UP:
            whole_ms.append(times[OUTPUT])
            for name in names:
                shares[name].append(times[name] / times[OUTPUT])
    known = {estimates[name]: median(shares[name]) for name in names} | {estimates[INPUT]: 0.0}
    at = sorted(known)
    # A longer head takes no less time, whatever the clock says.
    share = np.minimum(np.maximum.accumulate([known[estimate] for estimate in at]), 1.0)
    return {
        name: median(whole_ms) * float(np.interp(estimate, at, share))
        for name, estimate in estimates.items()
    }


def _sessions(
    net: CapturedNetwork, names: Sequence[str], int8: Mapping[str, bytes]
) -> dict[str, Any]:
    """Raises ImportError, CaptureError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    sessions = {}
    with tempfile.TemporaryDirectory(prefix="isplit-heads-") as folder:
        for name in names:
            path = Path(folder) / "head.onnx"
            if name in int8:
                path.write_bytes(int8[name])
            else:
                export_head(net, name, path)
            sessions[name] = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
    return sessions


def _run_ms(session: Any, x: np.ndarray[Any, Any]) -> float:
    (head_input,) = session.get_inputs()
    start = time.perf_counter()
    session.run(None, {head_input.name: x})
    return 1e3 * (time.perf_counter() - start)


def _evenly(names: Sequence[str], limit: int) -> list[str]:
    """At most ``limit`` of the names: the first, the last and evenly spaced ones between them."""
    if len(names) <= limit:
        return list(names)
    return [names[round(i * (len(names) - 1) / (limit - 1))] for i in range(limit)]
