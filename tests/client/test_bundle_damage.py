"""Every damage of a head bundle is a BundleError or harmless, and costs bounded memory."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys.client import bundle_files, make_manifest, onnx_head, write_zip

from isplit_plugin.client import HeadBundle
from isplit_plugin.errors import BundleError

HEAD = onnx_head("pool")


def small_bundle(path: Path, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(path, "w", method) as bundle:
        for name, data in bundle_files(("pool",)).items():
            bundle.writestr(name, data)
    return path.read_bytes()


def check(path: Path, data: bytes) -> bool:
    """Whether damaged bytes are read as the bundle; another exception fails the test."""
    path.write_bytes(data)
    try:
        bundle = HeadBundle(path)
    except BundleError:
        return False
    try:
        assert bundle.manifest.network_hash == "feed"
        assert bundle.read("pool") == HEAD  # what passes is what was packaged
    except BundleError:
        return False
    finally:
        bundle.close()
    return True


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_every_flipped_byte(tmp_path: Path, flip: int) -> None:
    whole = small_bundle(tmp_path / "good.zip")
    harmless = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= flip
        harmless += check(tmp_path / "bad.zip", bytes(damaged))
    assert 0 < harmless < len(whole) / 4  # dates, attributes and the like


def test_every_end(tmp_path: Path) -> None:
    whole = small_bundle(tmp_path / "good.zip")
    for length in range(0, len(whole), 3):
        assert not check(tmp_path / "bad.zip", whole[:length])


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    whole = small_bundle(tmp_path / "good.zip")
    local = whole.index(b"manifest.json")
    for flags, name in [(0x0800, b"\xff" * 13), (0x0800, b"m\xc3nifest.json")]:
        damaged = bytearray(whole)
        struct.pack_into("<H", damaged, 6, flags)  # says that the name is UTF-8
        damaged[local : local + 13] = name
        path = tmp_path / "bad.zip"
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match=r"manifest.json cannot be read"):
            HeadBundle(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=8)), max_size=6),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    st.booleans(),
)
def test_damage_in_many_places(
    tmp_path: Path, changes: list[tuple[int, bytes]], method: int, grows: bool
) -> None:
    damaged = bytearray(small_bundle(tmp_path / "good.zip", method))
    for place, piece in changes:
        # From the end, where the directory stands, or from the start.
        at = place % len(damaged) if place % 2 else -(place % 300) - 1
        if grows:
            damaged[at:at] = piece
        else:
            damaged[at] = piece[0]
    check(tmp_path / "bad.zip", bytes(damaged))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_of_compression_are_refused(tmp_path: Path, method: int) -> None:
    small_bundle(tmp_path / "b.zip", method)
    with pytest.raises(BundleError, match=f"compressed by method {method}, expected stored or"):
        HeadBundle(tmp_path / "b.zip")


HOSTILE: dict[str, tuple[bytes, bytes, int]] = {
    "many values": (b"[", b"0,", 8_000_000),
    "many objects": (b'{"x": [', b"{},", 5_000_000),
    "deep": (b"", b"[", 16_000_000),
    "zeros": (b"", b"\0", 50_000_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_costs_little(tmp_path: Path, name: str) -> None:
    start, piece, count = HOSTILE[name]
    content = start + piece * count
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bundle:
        bundle.writestr("manifest.json", content)
    (tmp_path / "b.zip").write_bytes(buffer.getvalue())
    del buffer, content
    tracemalloc.start()
    try:
        with pytest.raises(BundleError):
            HeadBundle(tmp_path / "b.zip")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * 2**20


@pytest.mark.parametrize(
    "change", [{"crop": [10**6, 10**6]}, {"crop": [0, 4]}, {"crop": [-1, 4]}, {"resize": 10**9}]
)
def test_an_input_that_could_not_be_made(tmp_path: Path, change: dict[str, object]) -> None:
    raw = make_manifest().to_json()
    raw["preprocessing"] |= change
    path = write_zip(tmp_path / "b.zip", {"manifest.json": json.dumps(raw).encode()})
    with pytest.raises(BundleError, match="expected sides of 1 to 8192 pixels"):
        HeadBundle(path)
