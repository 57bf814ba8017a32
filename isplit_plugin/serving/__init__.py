"""Serving: what runs inside TorchServe, and what starts it.

This package exports nothing itself, so that every program loads only what it needs. Import from:

- ``launcher``: start TorchServe and register models with it; loads neither torch nor ts;
- ``packaging``: build archives and head bundles;
- ``tail``: the worker of a split model;
- ``endpoint``: the worker of the model `isplit`, which answers questions; loads no torch.

The modules beside these packages hold what several of them share.
"""

from __future__ import annotations

__all__: list[str] = []
