"""Packaging: the model archive for TorchServe, the head bundle for devices, the archive of the
endpoint.
"""

from __future__ import annotations

from .archive import Built, build_archive, build_endpoint_archive, build_head_bundle, package
from .bottlenecks import load_bottlenecks
from .correctors import deployed_correctors
from .deployment import choose_deployed
from .manifest import make_manifest
from .transforms import deployed_transforms

__all__ = [
    "Built",
    "build_archive",
    "build_endpoint_archive",
    "build_head_bundle",
    "choose_deployed",
    "deployed_correctors",
    "deployed_transforms",
    "load_bottlenecks",
    "make_manifest",
    "package",
]
