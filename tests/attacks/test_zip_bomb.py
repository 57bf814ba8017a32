"""A head bundle that unpacks to far more than it is.

Defence: a bundle's content, as its directory states it, is at most 20 times the zip file, beyond
16 MB. Nothing is read before that is checked, and a file is never read beyond its stated size.
Bundles are not unpacked to disk.
"""

from __future__ import annotations

import hashlib
import json
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from toys.client import make_manifest

from isplit_plugin.client import HeadBundle
from isplit_plugin.errors import BundleError

MB = 2**20


def _manifest(hashes: dict[str, str]) -> bytes:
    return json.dumps(make_manifest(files=hashes).to_json()).encode()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_zeros(tmp_path: Path, method: int) -> None:
    path, zeros = tmp_path / "bomb.zip", bytes(64 * MB)
    with zipfile.ZipFile(path, "w", method) as bomb:
        bomb.writestr("manifest.json", _manifest({"heads/pool.onnx": "0" * 64}))
        bomb.writestr("heads/pool.onnx", zeros)
    assert path.stat().st_size < MB
    _refused_at_once(path, "expected a content of at most")


def test_a_thousand_names_of_the_same_bytes(tmp_path: Path) -> None:
    """Entries that all point at one file, which would be hashed again and again.

    The zip library compares each name with the one in front of the data.
    """
    path, head = tmp_path / "overlap.zip", bytes(MB)
    names = [f"heads/p{number}.onnx" for number in range(1000)]
    digest = hashlib.sha256(head).hexdigest()
    with zipfile.ZipFile(path, "w") as bomb:
        bomb.writestr("manifest.json", _manifest(dict.fromkeys(names, digest)))
        bomb.writestr(names[0], head)
        first = bomb.getinfo(names[0])
        for name in names[1:]:
            info = zipfile.ZipInfo(name)
            info.CRC, info.header_offset = first.CRC, first.header_offset
            info.file_size = info.compress_size = first.file_size
            bomb.filelist.append(info)
            bomb.NameToInfo[name] = info
    _refused_at_once(path)


def test_a_size_that_is_stated_too_small(tmp_path: Path) -> None:
    """What is read beyond the stated size would pass the check of the sum."""
    path, zeros = tmp_path / "liar.zip", bytes(64 * MB)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("manifest.json", _manifest({"heads/pool.onnx": "0" * 64}))
        bomb.writestr("heads/pool.onnx", zeros)
    content = bytearray(path.read_bytes())
    stated = struct.pack("<I", len(zeros))
    assert content.count(stated) == 2  # in the local header and in the directory
    path.write_bytes(bytes(content).replace(stated, struct.pack("<I", 1000)))
    _refused_at_once(path)


def _refused_at_once(path: Path, says: str = "head bundle") -> None:
    tracemalloc.start()
    started = time.thread_time()
    try:
        with pytest.raises(BundleError, match=says):
            HeadBundle(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MB
    assert time.thread_time() - started < 20.0  # reading it all would take minutes
