"""Head bundles that are damaged, changed or hostile, and the engines that run heads."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys.client import (
    bundle_files,
    make_manifest,
    onnx_head,
    photo,
    shared_bundle_files,
    write_zip,
)

from isplit_plugin.client import RUNTIMES, HeadBundle, OnnxHead, SplitClient, TorchHead
from isplit_plugin.client import bundle as bundle_module
from isplit_plugin.client.runtimes import Trust, make_runtime
from isplit_plugin.errors import BundleError, UnknownSplitPointError

X = np.linspace(-1, 1, 2 * 48, dtype=np.float32).reshape(2, 3, 4, 4)


def write(path: Path, files: dict[str, bytes], *, folder: bool) -> Path:
    if not folder:
        path.mkdir(exist_ok=True)
        return write_zip(path / "b.zip", files)
    for name, data in files.items():
        target = path / "b" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return path / "b"


def refused(path: Path, says: str) -> BundleError:
    with pytest.raises(BundleError, match=says) as caught:
        HeadBundle(path)
    return caught.value


@pytest.mark.parametrize("folder", [False, True])
def test_a_bundle_is_read(tmp_path: Path, folder: bool) -> None:
    files = bundle_files()
    bundle = HeadBundle(write(tmp_path, files, folder=folder))
    assert bundle.manifest.network_hash == "feed"
    assert bundle.heads() == ("double", "pool", "output")
    assert bundle.read("pool") == files["heads/pool.onnx"]
    assert (bundle.has("pool"), bundle.has("pool", "pt2"), bundle.has("input")) == (
        True,
        False,
        False,
    )
    whole = files["manifest.json"] if folder else (tmp_path / "b.zip").read_bytes()
    assert bundle.sha256 == hashlib.sha256(whole).hexdigest()
    with pytest.raises(BundleError, match=r"no heads/pool.pt2; .pt2 heads: none"):
        bundle.read("pool", "pt2")
    bundle.close()


@pytest.mark.parametrize("folder", [False, True])
def test_a_head_is_read_with_the_weights_that_it_shares(tmp_path: Path, folder: bool) -> None:
    files = shared_bundle_files()
    with closing(HeadBundle(write(tmp_path, files, folder=folder))) as bundle:
        assert bundle.heads() == ("double", "output")
        assert bundle.read("output") == files["heads/output.onnx"] + files["weights/1.onnx"]
        assert bundle.read("double") == files["heads/double.onnx"]
        runtime = OnnxHead(bundle, threads=1)
        with closing(HeadBundle(write_zip(tmp_path / "whole.zip", bundle_files()))) as whole:
            expected = OnnxHead(whole, threads=1).run("output", X)
        np.testing.assert_array_equal(runtime.run("output", X), expected)


def test_only_the_weights_of_the_heads_in_use_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, shared_bundle_files(), folder=True)
    with closing(HeadBundle(path)) as bundle:
        (path / "weights/1.onnx").unlink()
        np.testing.assert_array_equal(OnnxHead(bundle).run("double", X), 2 * X)
        with pytest.raises(BundleError, match=r"weights/1.onnx is missing"):
            bundle.read("output")


@pytest.mark.parametrize("folder", [False, True])
def test_shared_weights_that_are_changed_missing_or_listed_wrongly(
    tmp_path: Path, folder: bool
) -> None:
    files = shared_bundle_files()
    refused(
        write(tmp_path / "1", {**files, "weights/1.onnx": b"other"}, folder=folder),
        "weights/1.onnx is not the file that was packaged",
    )
    missing = {name: data for name, data in files.items() if name != "weights/1.onnx"}
    refused(write(tmp_path / "2", missing, folder=folder), "weights/1.onnx is missing")
    for number, listed in enumerate(
        (["1.onnx", "1.onnx"], ["2.onnx"], ["../heads/double.onnx"], ["/etc/passwd"], "1.onnx")
    ):
        wrong = shared_bundle_files(weights={"output": listed})
        error = refused(
            write(tmp_path / f"w{number}", wrong, folder=folder), "lists weights of the"
        )
        assert error.details["file"] == "manifest.json"


def test_shared_weights_count_towards_the_largest_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = shared_bundle_files()
    sizes = [len(files[name]) for name in ("heads/output.onnx", "weights/1.onnx")]
    with closing(HeadBundle(write(tmp_path, files, folder=False))) as bundle:
        monkeypatch.setattr(bundle_module, "MAX_FILE_BYTES", sum(sizes) - 1)
        with pytest.raises(BundleError, match=r"weights/1.onnx has more than"):
            bundle.read("output")


@pytest.mark.parametrize("folder", [False, True])
def test_a_changed_or_missing_file_is_named(tmp_path: Path, folder: bool) -> None:
    files = bundle_files()
    changed = {**files, "heads/pool.onnx": onnx_head("double")}
    error = refused(
        write(tmp_path / "1", changed, folder=folder),
        "heads/pool.onnx is not the file that was packaged",
    )
    assert error.details["file"] == "heads/pool.onnx"
    missing = {k: v for k, v in files.items() if k != "heads/double.onnx"}
    error = refused(write(tmp_path / "2", missing, folder=folder), "heads/double.onnx is missing")
    assert error.details["file"] == "heads/double.onnx"
    bare = {k: v for k, v in files.items() if k != "manifest.json"}
    refused(write(tmp_path / "3", bare, folder=folder), "manifest.json is missing")


def test_a_file_changed_after_opening_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, bundle_files(), folder=True)
    bundle = HeadBundle(path)
    (path / "heads/pool.onnx").write_bytes(b"another")
    with pytest.raises(BundleError, match=r"heads/pool.onnx is not the file"):
        bundle.read("pool")


@pytest.mark.parametrize(
    "name",
    ["../evil.onnx", "/etc/passwd", "heads/../../evil.onnx", "heads\\evil.onnx", "heads/.hidden.onnx", "heads/x.exe",
     "heads/a/b.onnx", "weights/../heads/x.onnx", "weights/x.onnx", "weights/1.pt2",
     "heads/" + "x" * 200 + ".onnx", "heads/\u00e9.onnx", "network.pt2", ""],
)  # fmt: skip
@pytest.mark.parametrize("folder", [False, True])
def test_paths_that_are_no_heads(tmp_path: Path, name: str, folder: bool) -> None:
    listed = bundle_files(files={name: "0" * 64})
    refused(write(tmp_path, listed, folder=folder), "expected heads/<split point>.onnx or .pt2")
    if not folder and name:
        refused(
            write_zip(tmp_path / "unlisted.zip", {**bundle_files(), name: b""}),
            "is not in manifest.json",
        )


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    path = write(tmp_path, bundle_files(), folder=True)
    secret = tmp_path / "secret.onnx"
    secret.write_bytes((path / "heads/pool.onnx").read_bytes())
    (path / "heads/pool.onnx").unlink()
    (path / "heads/pool.onnx").symlink_to(secret)
    refused(path, "heads/pool.onnx cannot be read .it lies outside")


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (b"", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "expected a JSON object, got list"),
        (b"{}", "not a manifest"),
        (b'{"format": 1e999}', "infinity|not a manifest"),
        (json.dumps({**make_manifest().to_json(), "format": 99}).encode(), "format 99 is newer"),
        (
            json.dumps({**make_manifest().to_json(), "files": {"heads/x.onnx": "abc"}}).encode(),
            "with a SHA-256",
        ),
        (
            json.dumps({**make_manifest().to_json(), "files": {"heads/x.onnx": "0" * 64}}).encode(),
            "heads/x.onnx is mi",
        ),
    ],
)
def test_manifests_that_are_none(tmp_path: Path, manifest: bytes, says: str) -> None:
    refused(write_zip(tmp_path / "b.zip", {"manifest.json": manifest}), says)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    refused(tmp_path / "missing.zip", "cannot be read .No such file")
    refused(tmp_path, "manifest.json is missing")
    (tmp_path / "photo.zip").write_bytes(b"\xff\xd8\xff")
    refused(tmp_path / "photo.zip", "not a zip file")
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as twice:
        twice.writestr("manifest.json", b"{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            twice.writestr("manifest.json", b"{}")
    refused(tmp_path / "twice.zip", "distinct names")
    write_zip(tmp_path / "many.zip", {f"heads/{i}.onnx": b"" for i in range(1025)})
    refused(tmp_path / "many.zip", "at most 1024 files with distinct names, got 1025")


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "MAX_MANIFEST_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("manifest.json", bytes(5_000_000))
    refused(tmp_path / "b.zip", "manifest.json has more than 1000 bytes")
    monkeypatch.undo()
    monkeypatch.setattr(bundle_module, "MAX_FILE_BYTES", 1000)
    refused(
        write_zip(tmp_path / "c.zip", bundle_files(extra={"heads/x.onnx": bytes(1001)})),
        "more than 1000 bytes",
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_damaged_zip_files_raise_bundle_errors_alone(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(write_zip(tmp_path / "good.zip", bundle_files(("pool",))).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        # The directory stands at the end: half of the damage goes there.
        low = data.draw(st.sampled_from([0, max(0, len(whole) - 250)]))
        whole[data.draw(st.integers(low, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(whole))))
    path = tmp_path / "bad.zip"
    path.write_bytes(whole[:cut])
    try:
        bundle = HeadBundle(path)
    except BundleError:
        return
    assert bundle.read("pool") == onnx_head("pool")  # what passes is what was packaged
    bundle.close()


@pytest.fixture
def opened(bundle: Path) -> Any:
    found = HeadBundle(bundle)
    yield found
    found.close()


def test_onnx_heads_by_hand(opened: HeadBundle) -> None:
    runtime = OnnxHead(opened, threads=1)
    np.testing.assert_array_equal(runtime.run("double", X), 2 * X)
    np.testing.assert_allclose(
        runtime.run("pool", X[:1]), (2 * X[:1]).mean(axis=(2, 3)), rtol=1e-5, atol=1e-7
    )
    assert runtime.run("output", X).shape == (2, 4)


def test_heads_that_do_not_work(tmp_path: Path) -> None:
    extra = {
        "heads/double.onnx": b"no onnx",
        "heads/pool.onnx": onnx_head("double"),
        "heads/x.onnx": onnx_head("pool"),
    }
    bundle = HeadBundle(write_zip(tmp_path / "b.zip", bundle_files((), extra)))
    runtime = OnnxHead(bundle)
    with pytest.raises(BundleError, match=r"heads/double.onnx: onnxruntime cannot load it"):
        runtime.run("double", X)
    with pytest.raises(
        BundleError, match=r"heads/pool.onnx: expected float32 \(2, 3\) from the head, got .*4, 4\)"
    ):
        runtime.run("pool", X)
    with pytest.raises(UnknownSplitPointError):
        runtime.run("x", X)
    bundle.close()
    good = HeadBundle(write_zip(tmp_path / "c.zip", bundle_files()))
    with pytest.raises(BundleError, match=r"heads/double.onnx: the head failed on \(2, 5\)"):
        OnnxHead(good).run("double", X.reshape(2, -1)[:, :5].copy())
    good.close()


def test_runtimes_by_name(opened: HeadBundle) -> None:
    assert isinstance(make_runtime("onnxruntime", opened), OnnxHead)
    with pytest.raises(
        BundleError, match="unknown head runtime 'tflite'; known: onnxruntime, torch"
    ):
        make_runtime("tflite", opened)
    with pytest.raises(BundleError, match="expected an instance of a head runtime, got the class"):
        make_runtime(OnnxHead, opened)  # type: ignore[arg-type]


def test_a_runtime_of_ones_own(opened: HeadBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = Mock()
    monkeypatch.setitem(RUNTIMES, "tflite", factory)
    assert make_runtime("tflite", opened, threads=3, trust_pt2="f00d") is factory.return_value
    factory.assert_called_once_with(opened, threads=3, trust_pt2="f00d")


@pytest.fixture(scope="module")
def pt2_files() -> dict[str, bytes]:
    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    buffer = io.BytesIO()
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own exporter
        program = torch.export.export(
            Double(), (torch.zeros(2, 3, 4, 4),), dynamic_shapes=({0: batch},)
        )
        torch.export.save(program, buffer)
    return {"heads/double.pt2": buffer.getvalue()}


def test_torch_heads_need_trust(tmp_path: Path, pt2_files: dict[str, bytes]) -> None:
    path = write_zip(tmp_path / "b.zip", bundle_files(("pool",), pt2_files))
    bundle = HeadBundle(path)
    whole = hashlib.sha256(path.read_bytes()).hexdigest()
    head = hashlib.sha256(pt2_files["heads/double.pt2"]).hexdigest()
    for trust in (whole, whole.upper(), {"double": head}):
        runtime = TorchHead(bundle, trust=trust)
        assert (runtime.has("double"), runtime.has("pool")) == (True, False)
        np.testing.assert_array_equal(runtime.run("double", X), 2 * X)
    untrusted: list[Trust] = [None, "", {}]
    for trust_nothing in untrusted:
        with pytest.raises(BundleError, match="is code and is loaded only with trust_pt2"):
            TorchHead(bundle, trust=trust_nothing)
    with pytest.raises(BundleError, match=f"its SHA-256 is {whole}, trust_pt2 says {head}"):
        TorchHead(bundle, trust=head)
    for wrong in ({"double": whole}, {"pool": head}):
        with pytest.raises(
            BundleError, match=f"heads/double.pt2: its SHA-256 is {head}, trust_pt2 says"
        ):
            TorchHead(bundle, trust=wrong).run("double", X)
    bundle.close()


def test_a_client_with_a_torch_head(
    tmp_path: Path, pt2_files: dict[str, bytes], server: Any
) -> None:
    path = write_zip(tmp_path / "b.zip", bundle_files(("pool",), pt2_files))
    trust = hashlib.sha256(path.read_bytes()).hexdigest()
    with SplitClient(
        server.url, model="toy", head=path, runtime="torch", trust_pt2=trust
    ) as client:
        assert client.predict(photo(51, 204, 0)).label == "green"
    with pytest.raises(BundleError, match="trust_pt2"):
        SplitClient(server.url, model="toy", head=path, runtime="torch")


def test_a_broken_torch_head(tmp_path: Path) -> None:
    extra = {"heads/double.pt2": b"no pt2"}
    path = write_zip(tmp_path / "b.zip", bundle_files((), extra))
    bundle = HeadBundle(path)
    with pytest.raises(BundleError, match=r"heads/double.pt2: torch cannot load it"):
        TorchHead(bundle, trust={"double": hashlib.sha256(b"no pt2").hexdigest()}).run("double", X)
    bundle.close()
