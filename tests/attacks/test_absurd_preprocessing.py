"""A manifest that asks a device for an input of billions of pixels, or for a division by zero.

Defence: the sides of crop and resize are 1 to 8192 pixels, the mean is finite and the standard
deviation positive; anything else is no manifest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from toys.client import bundle_files, write_zip

from isplit_plugin.client import HeadBundle
from isplit_plugin.errors import BundleError


@pytest.mark.parametrize(
    "lie",
    [
        {"crop": [10**9, 10**9]},
        {"crop": [10**20, 4]},
        {"crop": [0, 4]},
        {"crop": [-3, 4]},
        {"resize": 0},
        {"resize": -5},
        {"resize": 10**9},
        {"std": [0.0, 1.0, 1.0]},
        {"std": [1e-320, 1.0, 1.0]},
        {"std": ["nan", 1.0, 1.0]},
        {"mean": ["inf", 1.0, 1.0]},
        {"mean": [10**400, 1.0, 1.0]},
    ],
    ids=str,
)
def test_it_is_no_manifest(tmp_path: Path, lie: dict[str, Any]) -> None:
    files = bundle_files()
    raw = json.loads(files["manifest.json"])
    raw["preprocessing"].update(lie)
    files["manifest.json"] = json.dumps(raw).encode()
    with pytest.raises(BundleError, match=r"not a manifest|expected sides"):
        HeadBundle(write_zip(tmp_path / "hostile.zip", files))
