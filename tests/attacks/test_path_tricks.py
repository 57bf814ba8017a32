"""Names that lead out of where they belong: ``../``, absolute paths, links, other routes.

Defence: names in a bundle match one pattern and are never written to disk; a folder's files must
lie in it; the client quotes names in paths; the endpoint takes topics and fields from fixed lists.
Of archives: tests/serving/packaging/test_archive.py, test_a_manifest_cannot_point_outside.
"""

from __future__ import annotations

import hashlib
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fuzz.server_targets import server as endpoint
from toys.client import Server, bundle_files, onnx_head, write_zip

from isplit_plugin.client import HeadBundle, OnnxHead, fetch_recommendation
from isplit_plugin.errors import BundleError, IsplitError

TRICKS = (
    *("../secret", "heads/../../secret.onnx", "/etc/passwd", "heads/..\\..\\secret.onnx"),
    *(
        "heads//etc/passwd.onnx",
        "heads/\0.onnx",
        "heads/a/b.onnx",
        "C:\\secret.onnx",
        "heads/..onnx",
    ),
    *(
        "heads/%2e%2e%2fsecret.onnx",
        "HEADS/x.onnx",
        "heads/x.onnx/",
        "heads/x.onnx ",
        "heads/~.onnx",
    ),
)
PATHS = ("../isplit", "..%2f..", "%2e%2e/models", "toy/../../models", "toy?x=1", "toy#x", "toy\\x")


@pytest.mark.parametrize("name", TRICKS)
def test_names_in_a_bundle(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.onnx").write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    files = bundle_files((), files={name: digest})
    for content in (files, {**files, name: b"secret"}):
        with pytest.raises(BundleError):
            HeadBundle(write_zip(tmp_path / "bundle.zip", content))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(files["manifest.json"])
    with pytest.raises(BundleError):
        HeadBundle(folder)


@pytest.mark.parametrize("place", ["/{}", "{}", "../{}", "heads/../{}"])
def test_a_head_whose_weights_lie_elsewhere(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX can name a file that holds a tensor: what it holds would travel as an activation.

    Heads come as bytes, without a folder that such a name could be relative to.
    """
    (tmp_path / "heads").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(np.zeros(1, np.float32).tobytes())
    head = onnx.load_from_string(onnx_head("double"))
    (tensor,) = head.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    path = place.format(str(tmp_path)[1:] + "/secret" if place[0] == "/" else "secret")
    tensor.external_data.add(key="location", value=path)
    files = bundle_files((), {"heads/double.onnx": head.SerializeToString()})
    with closing(HeadBundle(write_zip(tmp_path / "hostile.zip", files))) as bundle:
        runtime = OnnxHead(bundle)
        with pytest.raises(BundleError, match="onnxruntime cannot load it"):
            runtime.run("double", np.zeros((1, 3, 4, 4), np.float32))


@pytest.mark.parametrize("name", TRICKS)
def test_a_split_point_that_is_asked_for(bundle: Path, name: str) -> None:
    with closing(HeadBundle(bundle)) as opened:
        assert not opened.has(name)
        with pytest.raises(BundleError, match="has no heads/"):
            opened.read(name)


@pytest.mark.parametrize("model", PATHS)
def test_a_model_that_is_a_path(server: Server, model: str) -> None:
    """The request goes to the route it was meant for, or is never made."""
    with suppress(IsplitError):
        fetch_recommendation(server.url, model)
    for seen in server.state.seen:
        assert seen.path.startswith("/predictions/isplit/1.0/recommendations/")
        assert seen.path.count("/") == 5
        assert "?" not in seen.path


@pytest.mark.parametrize(
    "path",
    [
        *("../models", "models/../../etc/passwd", "recommendations/../models", "./models/."),
        *("//models", "recommendations/toy/classes/../0", "recommendations//toy", "MODELS"),
        *("recommendations/toy/group/../../../x", "recommendations/toy%2f..%2fmodels", "\0"),
    ],
)
def test_paths_to_the_endpoint(path: str) -> None:
    answer: Any = endpoint().ask({}, {"url_path": path})
    assert (
        answer.get("code") in ("unknown_name", "bad_query", "unknown_model") or "models" in answer
    )
