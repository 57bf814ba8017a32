"""Head bundles with other content whose hashes fit."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path


def rewritten_bundle(source: Path, target: Path, contents: Mapping[str, bytes]) -> Path:
    """A copy of a bundle with other files, and a manifest that fits them."""
    with zipfile.ZipFile(source) as bundle:
        files = {name: bundle.read(name) for name in bundle.namelist()} | dict(contents)
    manifest = json.loads(files["manifest.json"])
    for name, content in contents.items():
        manifest["files"][name] = hashlib.sha256(content).hexdigest()
    files["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(target, "w") as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return target
