"""SplitClient against answers computed by hand: every split point, codec, image and default."""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.client import (
    CLASSES,
    Server,
    bundle_files,
    make_manifest,
    photo,
    recommendation,
    scores_of,
    write_zip,
)

from isplit_plugin import image
from isplit_plugin.client import SplitClient
from isplit_plugin.client.answers import share
from isplit_plugin.client.cuts import resolve
from isplit_plugin.errors import (
    BundleError,
    ImageError,
    MissingCodecError,
    NetworkMismatchError,
    ProtocolError,
    QueryError,
    ServerUnavailableError,
    UnknownCodecError,
    UnknownSplitPointError,
    WireError,
    WireSizeError,
)
from isplit_plugin.schema import ON_DEVICE, Cut, Prediction
from isplit_plugin.wire import TailResponse

Connect = Callable[..., SplitClient]
GREEN = photo(51, 204, 0)  # doubled and pooled: 0.4, 1.6, 0; scores 0.4, 3.2, 0, -1.5
GREEN_SCORES = [0.4, 3.2, 0.0, -1.5]


def raw_scores(prediction: Prediction) -> np.ndarray:
    """The scores of a client that asks for them, as it does by default."""
    assert prediction.scores is not None
    return prediction.scores


@pytest.mark.parametrize("split_point", ["input", "double", "pool"])
@pytest.mark.parametrize("codec", ["fp32", "fp32+zstd", "fp16", "fp16+zstd", "uint8", "uint8+zstd"])
def test_every_split_point_and_codec_gives_the_answer_computed_by_hand(
    connect: Connect, split_point: str, codec: str
) -> None:
    cut = Cut(split_point, codec)
    prediction = connect().predict(GREEN, cut)
    scores = raw_scores(prediction)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, GREEN_SCORES, atol=0.02)
    assert (prediction.label, prediction.class_id) == ("green", 1)
    assert [t.label for t in prediction.top] == ["green", "red", "blue", "dark"]
    weights = np.exp(GREEN_SCORES)
    assert prediction.probability == pytest.approx(weights[1] / weights.sum(), abs=0.01)
    assert (prediction.cut, prediction.request_id) == (cut, "s-1")
    assert (prediction.split_point, prediction.codec) == (split_point, codec)


@pytest.mark.parametrize("codec", ["jpeg", "file"])
def test_images_at_input(connect: Connect, server: Server, codec: str) -> None:
    prediction = connect().predict(GREEN, Cut("input", codec))
    np.testing.assert_allclose(raw_scores(prediction), GREEN_SCORES, atol=0.1)
    sent = server.state.seen[-1].body
    assert (b"\xff\xd8\xff" if codec == "jpeg" else b"\x89PNG") in sent
    assert prediction.bytes_sent == len(sent)


def test_a_file_is_sent_as_it_is(connect: Connect, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    PIL.Image.fromarray(GREEN).resize((8, 8)).save(path)
    given_forms: list[image.Image] = [path, str(path), path.read_bytes()]
    for form in given_forms:
        prediction = connect().predict(form, Cut("input", "file"))
        np.testing.assert_allclose(raw_scores(prediction), GREEN_SCORES, atol=1e-5)
        assert path.read_bytes() in server.state.seen[-1].body


def test_all_forms_of_an_image_give_one_answer(connect: Connect, tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(GREEN)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(buffer.getvalue())
    forms: list[image.Image] = [GREEN, picture, buffer.getvalue(), path, str(path)]
    forms.append(image.preprocess(GREEN, make_manifest().preprocessing))
    forms.append(io.BytesIO(buffer.getvalue()))
    client = connect()
    assert len({raw_scores(client.predict(form)).tobytes() for form in forms}) == 1


def test_output_sends_nothing(connect: Connect, server: Server) -> None:
    prediction = connect().predict(GREEN, "output")
    np.testing.assert_allclose(raw_scores(prediction), GREEN_SCORES, atol=1e-6)
    assert (prediction.cut, prediction.label) == (ON_DEVICE, "green")
    assert (prediction.bytes_sent, prediction.bytes_received, prediction.timings.round_trip_ms) == (
        0,
        0,
        0.0,
    )
    assert prediction.timings.head_ms > 0
    assert server.state.seen == []


def test_the_defaults_are_the_bundles(connect: Connect, server: Server) -> None:
    client = connect()
    assert client.cut == Cut("double", "fp32")
    prediction = client.predict(GREEN)
    assert prediction.cut == Cut("double", "fp32")
    request = server.state.seen[-1]
    assert (request.method, request.path) == ("POST", "/predictions/toy/1.0")
    assert request.headers["Content-Type"] == "application/octet-stream"
    assert "Authorization" not in request.headers
    times = prediction.timings
    assert (times.decode_ms, times.tail_ms) == (0.25, 1.5)  # as the server says
    assert min(times.prepare_ms, times.head_ms, times.encode_ms, times.round_trip_ms) > 0
    assert times.total_ms == pytest.approx(
        times.prepare_ms + times.head_ms + times.encode_ms + times.round_trip_ms
    )


def test_one_connection_is_kept(connect: Connect, server: Server) -> None:
    client = connect()
    for _ in range(5):
        client.predict(GREEN)
    assert len(server.state.connections) == 1


def test_top_k_without_scores(connect: Connect, server: Server) -> None:
    prediction = connect(top_k=2, raw_scores=False, group="north").predict(GREEN)
    assert [t.label for t in prediction.top] == ["green", "red"]
    assert prediction.scores is None
    assert b'"isplit_group":"north"' in server.state.seen[-1].body
    local = connect(top_k=2, raw_scores=False).predict(GREEN, "output")
    assert [t.label for t in local.top] == ["green", "red"]
    assert local.scores is None


@pytest.mark.parametrize(
    "cut", [Cut("double", "uint8+zstd"), Cut("pool", "fp16"), Cut("input", "jpeg", 90), ON_DEVICE]
)
def test_a_batch_is_one_request_and_equals_single_predictions(
    connect: Connect, server: Server, cut: Cut
) -> None:
    colours = [photo(200, 10, 10), photo(10, 200, 10), photo(10, 10, 200), photo(3, 3, 3)]
    client = connect()
    together = client.predict_batch(colours, cut)
    requests = len(server.state.seen)
    assert requests == (0 if cut == ON_DEVICE else 1)
    assert [p.label for p in together] == list(CLASSES)
    for one, colour in zip(together, colours, strict=True):
        alone = client.predict(colour, cut)
        assert one.scores is not None
        assert alone.scores is not None
        np.testing.assert_allclose(one.scores, alone.scores, rtol=1e-6)
    if requests:
        assert sum(p.bytes_sent for p in together) == len(server.state.seen[0].body)


@pytest.mark.parametrize("cut", ["double", "output", "input:fp32", "input:jpeg@90", "input:file"])
def test_an_image_of_a_batch_that_cannot_be_read_is_named(
    connect: Connect, server: Server, cut: str, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.jpg"
    with pytest.raises(ImageError, match=r"images\[1\]: .*missing\.jpg") as caught:
        connect().predict_batch([GREEN, missing, GREEN], cut)
    assert caught.value.details["index"] == 1
    with pytest.raises(ImageError) as single:
        connect().predict(missing, cut)
    assert "images[" not in single.value.message
    assert server.state.seen == []


def test_batches_are_bounded(connect: Connect, server: Server) -> None:
    client = connect(max_batch=2)
    assert client.predict_batch([]) == []
    with pytest.raises(WireSizeError, match="expected at most 2 images, got 3"):
        client.predict_batch([GREEN] * 3)
    assert server.state.seen == []


@given(st.integers(0, 10**9), st.integers(1, 64))
def test_shares_sum_to_the_whole(total: int, items: int) -> None:
    shares = [share(total, items, i) for i in range(items)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


def test_what_cannot_be_asked(connect: Connect, server: Server, tmp_path: Path) -> None:
    client = connect()
    with pytest.raises(
        UnknownSplitPointError,
        match="unknown split point 'nowhere'; known: input, double, pool, out",
    ):
        client.predict(GREEN, "nowhere")
    with pytest.raises(UnknownCodecError, match="'int3' at 'double'; known: uint8\\+zstd, uint8"):
        client.predict(GREEN, Cut("double", "int3"))
    with pytest.raises(UnknownCodecError, match="'jpeg' at 'double'"):
        client.predict(GREEN, Cut("double", "jpeg"))
    with pytest.raises(UnknownCodecError, match="'fp32' at 'output', where nothing is sent"):
        client.predict(GREEN, Cut("output", "fp32"))
    with pytest.raises(QueryError, match=r"expected a codec such as .* got ''"):
        client.predict(GREEN, "double:")
    for broken in (b"no image", tmp_path / "missing.jpg", np.zeros((3, 3, 3), np.float32)):
        for cut in ("double", "input:jpeg@90"):
            with pytest.raises(ImageError):
                client.predict(broken, cut)
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    for missing in (tmp_path / "missing.jpg", tmp_path / "pipe", np.zeros((3, 4, 4), np.float32)):
        with pytest.raises(ImageError):
            client.predict(missing, Cut("input", "file"))
    for one in ("photo.jpg", tmp_path / "photo.jpg", b"bytes"):
        with pytest.raises(ImageError, match="expected a list of images, got one"):
            connect().predict_batch(one)  # type: ignore[arg-type]
    for top_k in (0, 101):
        with pytest.raises(WireError, match="top_k"):
            connect(top_k=top_k)
    assert server.state.seen == []


def test_a_codec_that_the_server_lacks_names_both_lists(connect: Connect, server: Server) -> None:
    server.state.manifest = make_manifest(codecs=("uint8", "fp16"), default=Cut("double", "uint8"))
    with pytest.raises(UnknownCodecError) as caught:
        connect().predict(GREEN, Cut("double", "fp32"))
    told = caught.value.message
    assert told.startswith(
        "the server says: unknown codec 'fp32'; known: uint8, fp16 (accepted by the tail); "
    )
    assert told.endswith(
        "; this client codes: fp32, fp32+zstd, fp16, fp16+zstd, uint8, uint8+zstd, jpeg, webp, avif, file, q<2-8>[c][+rle]+zstd"
    )
    assert caught.value.details["known"] == ["uint8", "fp16"]
    assert {"fp32", "q4c+rle+zstd", "jpeg"} <= set(caught.value.details["client"])


def test_an_alias_names_the_same_place(connect: Connect) -> None:
    assert connect(cut="double.out").cut == Cut("double", "fp32")
    assert connect().predict(GREEN, "double.out").split_point == "double"
    assert connect().predict(GREEN, "double.out:fp16").cut == Cut("double", "fp16")


def test_a_bad_photo_is_the_servers_400(connect: Connect) -> None:
    with pytest.raises(ImageError, match="JPEG"):
        connect().predict(b"no image at all", Cut("input", "file"))


@pytest.mark.parametrize(
    ("default", "asked", "expected"),
    [
        ("double:fp16", None, "double:fp16"),
        ("double:fp16", "pool", "pool:fp16"),
        ("double:fp16", "double:uint8", "double:uint8"),
        ("double:fp16", Cut("pool", "uint8"), "pool:uint8"),
        ("double:fp16", "input", "input:jpeg@90"),
        ("double:fp16", "output", "output:none"),
        ("input:file", None, "input:file"),
        ("input:file", "input", "input:file"),
        ("input:jpeg@90", "double", "double:uint8+zstd"),
        ("output:none", "pool", "pool:uint8+zstd"),
        ("output:none", "input", "input:jpeg@90"),
    ],
)
def test_what_is_left_out_is_completed(
    default: str, asked: Cut | str | None, expected: str
) -> None:
    manifest = make_manifest(default=Cut.parse(default))
    assert resolve(manifest, None, asked) == Cut.parse(expected)
    assert resolve(make_manifest(), Cut.parse(default), asked) == Cut.parse(expected)


@pytest.mark.parametrize(
    ("default", "asked", "expected"),
    [
        ("double:fp16", "input", "input:webp@75"),
        ("double:fp16", "input:jpeg", "input:jpeg@85"),
        ("double:fp16", "input:webp", "input:webp@75"),
        ("double:fp16", "input:webp@90", "input:webp@90"),
        ("double:fp16", "input:avif", "input:avif@80"),  # no usual one: the highest
        ("double:fp16", "double:rated", "double:rated@1"),
        ("double:fp16", "pool:rated", "pool:rated@12"),
        ("pool:fp16", "double", "double:rated@1"),
        ("double:rated@3", "double", "double:rated@3"),
        ("double:rated@3", "pool", "pool:rated@3"),
        ("input:jpeg@95", "input", "input:jpeg@95"),
    ],
)
def test_a_codec_alone_gets_its_usual_quality(default: str, asked: str, expected: str) -> None:
    manifest = make_manifest(
        codecs=("fp16", "rated@1", "rated@3", "rated@12"),
        photos=("jpeg@95", "jpeg@85", "webp@90", "webp@75", "avif@60", "avif@80"),
        usual=tuple(map(Cut.parse, ("input:webp@75", "input:jpeg@85", "double:rated@1"))),
    )
    assert resolve(manifest, Cut.parse(default), asked) == Cut.parse(expected)


@pytest.mark.parametrize(
    ("asked", "known"),
    [("input:webp@76", "webp@75"), ("double:rated@2", "rated@1,3"), ("double:webp@75", "fp16")],
)
def test_a_quality_that_the_manifest_lacks_is_refused(asked: str, known: str) -> None:
    manifest = make_manifest(codecs=("fp16", "rated@1", "rated@3"), photos=("webp@75",))
    with pytest.raises(UnknownCodecError, match=known):
        resolve(manifest, None, asked)


@pytest.mark.parametrize(
    ("cut", "magic"),
    [
        ("input:jpeg@50", b"\xff\xd8\xff"),
        ("input:webp@50", b"WEBPVP8"),
        ("input:avif@50", b"ftypavif"),
    ],
)
def test_a_photo_is_sent_in_the_form_of_the_cut(
    connect: Connect, server: Server, tmp_path: Path, cut: str, magic: bytes
) -> None:
    photos = ("jpeg@50", "webp@50", "avif@50")
    server.state.manifest = make_manifest(photos=photos)
    head = write_zip(tmp_path / "photos.head.zip", bundle_files(photos=photos))
    prediction = connect(head=head).predict(GREEN, cut)
    assert (str(prediction.cut), prediction.label) == (cut, "green")
    assert magic in server.state.seen[-1].body


def test_a_device_without_avif_sends_what_it_can(
    connect: Connect, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.features.check", lambda name: name != "avif")
    photos = ("jpeg@75", "jpeg@90", "webp@75", "avif@60")
    usual = tuple(map(Cut.parse, ("input:avif@60", "input:webp@75", "input:jpeg@75")))
    changes: dict[str, Any] = {"photos": photos, "usual": usual}
    server.state.manifest = make_manifest(**changes)
    head = write_zip(tmp_path / "avif.head.zip", bundle_files(**changes))
    client = connect(head=head)
    assert str(client.predict(GREEN, "input").cut) == "input:webp@75"
    client.use(recommendation(Cut("input", "avif", 60)))
    assert str(client.predict(GREEN).cut) == "input:webp@75"
    assert client.can_take(Cut("input", "webp", 75))
    assert not client.can_take(Cut("input", "avif", 60))
    with pytest.raises(MissingCodecError, match="Pillow"):
        client.predict(GREEN, "input:avif@60")
    default = make_manifest(**changes, default=Cut("input", "avif", 60))
    assert str(resolve(default, None, None)) == "input:webp@75"
    assert str(resolve(replace(default, usual=()), None, None)) == "input:webp@75"
    assert str(resolve(replace(default, usual=(), photos=("avif@60",)), None, None)) == "input:file"


def test_not_every_known_split_point_is_deployed() -> None:
    manifest = make_manifest(deployed=("pool",), default=Cut("pool", "fp32"))
    with pytest.raises(
        UnknownSplitPointError, match="'double' is not deployed; deployed: input, pool, output"
    ):
        resolve(manifest, None, "double")


def test_without_a_bundle_photo_files_can_be_sent(connect: Connect) -> None:
    client = connect(head=None)
    photo_file = Cut("input", "file")
    assert (client.manifest, client.cut) == (None, photo_file)
    for asked in (None, "input", "input:file", photo_file):
        prediction = client.predict(GREEN, asked)
        assert (prediction.label, prediction.cut) == ("green", photo_file)
    for cut in ("double", "input:jpeg@90", "output", Cut("input", "jpeg", 90)):
        with pytest.raises(BundleError, match="needs the head bundle"):
            client.predict(GREEN, cut)


def test_a_head_of_another_network_is_refused(connect: Connect, server: Server) -> None:
    server.state.manifest = make_manifest(network_hash="beef")
    with pytest.raises(
        NetworkMismatchError, match="belongs to network feed, this tail to beef"
    ) as caught:
        connect().predict(GREEN)
    assert caught.value.details == {"head": "feed", "tail": "beef"}


def test_the_bundle_may_lack_the_whole_network(connect: Connect, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "b.zip", bundle_files(("double", "pool")))
    with pytest.raises(BundleError, match=r"has no heads/output.onnx; .onnx heads: double, pool"):
        connect(head=path).predict(GREEN, "output")


class Accelerator:
    """A runtime of somebody's own."""

    def __init__(self, off: float = 0.0) -> None:
        self.off = off

    def has(self, split_point: str) -> bool:
        return split_point == "double"

    def run(self, split_point: str, x: np.ndarray) -> np.ndarray:
        return 2 * x + np.float32(self.off)


def test_a_runtime_of_ones_own(connect: Connect) -> None:
    prediction = connect(runtime=Accelerator()).predict(GREEN)
    np.testing.assert_allclose(raw_scores(prediction), GREEN_SCORES, atol=1e-6)
    with pytest.raises(WireError, match="NaN or infinite"):
        connect(runtime=Accelerator(math.nan)).predict(GREEN)


class Slow(Accelerator):
    """Loads for two seconds and runs for half a second of a clock that stands still otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0

    def load(self, split_point: str) -> None:
        self.clock += 2.0

    def run(self, split_point: str, x: np.ndarray) -> np.ndarray:
        self.clock += 0.5
        return super().run(split_point, x)


def test_a_head_is_loaded_before_its_time_is_taken(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Slow()
    monkeypatch.setattr(time, "perf_counter", lambda: runtime.clock)
    timings = connect(runtime=runtime).predict(GREEN).timings
    assert (timings.prepare_ms, timings.head_ms) == (2000.0, 500.0)


def test_the_fallback_runs_here_while_the_server_is_away(connect: Connect) -> None:
    nobody = "http://127.0.0.1:9"  # the discard port: nothing listens
    with pytest.raises(ServerUnavailableError):
        connect(url=nobody).predict(GREEN)
    prediction = connect(url=nobody, local_fallback=True).predict(GREEN)
    assert (prediction.cut, prediction.bytes_sent) == (ON_DEVICE, 0)
    np.testing.assert_allclose(raw_scores(prediction), GREEN_SCORES, atol=1e-6)
    assert prediction.timings.round_trip_ms > 0  # the time lost


def test_a_file_object_serves_the_fallback_too(connect: Connect) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(GREEN).save(buffer, "PNG")
    buffer.seek(0)
    prediction = connect(url="http://127.0.0.1:9", local_fallback=True).predict(buffer)
    assert prediction.label == "green"
    with pytest.raises(ImageError, match=r"images\[1\]: file object: expected bytes"):
        connect().predict_batch([GREEN, io.StringIO("text")])  # type: ignore[list-item]


def test_no_fallback_where_the_bundle_cannot(connect: Connect, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "b.zip", bundle_files(("double", "pool")))
    with pytest.raises(ServerUnavailableError):
        connect(url="http://127.0.0.1:9", head=path, local_fallback=True).predict(GREEN)


def test_a_recommendation_is_adopted(connect: Connect, server: Server) -> None:
    client = connect()
    advice = client.recommendation()
    assert advice == recommendation()
    client.use(advice)
    assert client.cut == Cut("pool", "uint8")
    assert client.predict(GREEN).cut == Cut("pool", "uint8")
    client.use(recommendation(ON_DEVICE))
    assert client.predict(GREEN).bytes_sent == 0
    client.use(recommendation(Cut("input", "jpeg", 90)))
    assert client.predict(GREEN).codec == "jpeg"


def test_a_recommendation_that_cannot_be_adopted(connect: Connect, tmp_path: Path) -> None:
    client = connect(head=write_zip(tmp_path / "b.zip", bundle_files(("double",))))
    with pytest.raises(BundleError, match="recommends 'pool', but there is no head"):
        client.use(recommendation())
    with pytest.raises(
        NetworkMismatchError, match="belongs to network feed, the recommendation is for beef"
    ):
        client.use(recommendation(network_hash="beef"))
    with pytest.raises(UnknownCodecError):
        client.use(recommendation(Cut("double", "q3+zstd")))
    with pytest.raises(UnknownSplitPointError):
        client.use(recommendation(Cut("elsewhere", "uint8")))
    assert client.cut == Cut("double", "fp32")


def test_an_answer_to_another_question_is_refused(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(raw_scores=False)
    changes: list[dict[str, Any]] = [
        {"split_point": "pool"},
        {"network_hash": "beef"},
        {"scores": 1},
        {"double": 2},
    ]
    for wrong in changes:
        monkeypatch.setattr("toys.client.TailResponse", _Changed(wrong))
        with pytest.raises(ProtocolError, match=r"answered|expected the best"):
            client.predict(GREEN)


class _Changed:
    """Answers something else than was asked."""

    def __init__(self, change: dict[str, Any]) -> None:
        self.change = change

    def from_scores(
        self, scores: np.ndarray, classes: Sequence[str], **fields: Any
    ) -> TailResponse:
        if self.change.get("double"):
            scores = np.concatenate([scores, scores])
        if self.change.get("scores"):
            fields["with_scores"] = True
        named = {k: v for k, v in self.change.items() if k in ("split_point", "network_hash")}
        return TailResponse.from_scores(scores, classes, **(fields | named))


def test_scores_by_hand() -> None:
    np.testing.assert_allclose(
        scores_of(image.preprocess(GREEN, make_manifest().preprocessing)[None]), [GREEN_SCORES]
    )
