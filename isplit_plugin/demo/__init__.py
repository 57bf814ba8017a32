"""The demo: one run of the whole product on a real network, real photos and a real TorchServe.

Run it with ``isplit demo``. This package exports nothing: its device runs in a process of its own
that must not import torch.
"""

from __future__ import annotations

__all__: list[str] = []
