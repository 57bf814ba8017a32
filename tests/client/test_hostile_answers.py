"""A hostile server: what its answers can make a device believe, print, or allocate."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.client import Server, answering, make_manifest, photo, recommendation

from isplit_plugin.client import (
    SplitClient,
    fetch_classes,
    fetch_recommendation,
    send_labels,
)
from isplit_plugin.client.answered_errors import answered_error
from isplit_plugin.client.answers import predictions
from isplit_plugin.errors import (
    ArtifactError,
    IsplitError,
    ProtocolError,
    QueryError,
    WireError,
)
from isplit_plugin.printable import printable, printable_json
from isplit_plugin.schema import Cut, Recommendation, Timings
from isplit_plugin.terminal import recommendation_text
from isplit_plugin.wire import AnswerBounds, TailResponse, decode_response, http_headers

Connect = Callable[..., SplitClient]
GREEN = photo(51, 204, 0)
ESCAPES = "\x1b]0;owned\x07\x1b[2Jgreen\r\n\u202e\ud800"
MB = 2**20


@contextmanager
def at_most(nbytes: int) -> Iterator[None]:
    """The block allocates at most this much at a time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < nbytes


def tail_answer(**changes: Any) -> Callable[[Any], None]:
    """A fault: the tail's answer to one image and the best two classes, with changes."""
    fields: dict[str, Any] = {
        "top_class": np.array([[1, 0]]),
        "top_score": np.array([[3.2, 0.4]], np.float32),
        "top_probability": np.array([[0.9, 0.05]], np.float32),
        "top_label": (("green", "red"),),
        "scores": None,
        "split_point": "double",
        "network_hash": make_manifest().network_hash,
        **changes,
    }
    body, length = TailResponse(**fields).encode()
    return answering(200, body, **http_headers(length))


LIES: dict[str, dict[str, Any]] = {
    "a class beyond the network's": {"top_class": np.array([[10**9, 0]])},
    "a class twice": {"top_class": np.array([[1, 1]])},
    "probability 7": {"top_probability": np.array([[7.0, 0.05]], np.float32)},
    "probability below 0": {"top_probability": np.array([[0.9, -0.1]], np.float32)},
    "probabilities of more than 1": {"top_probability": np.array([[0.9, 0.8]], np.float32)},
    "the worst class first": {"top_score": np.array([[0.4, 3.2]], np.float32)},
    "more classes than asked for": {
        "top_class": np.array([[0, 1, 2]]),
        "top_score": np.array([[3, 2, 1]], np.float32),
        "top_probability": np.array([[0.5, 0.3, 0.2]], np.float32),
        "top_label": (("a", "b", "c"),),
    },
    "fewer classes than asked for": {
        "top_class": np.array([[1]]),
        "top_score": np.array([[3]], np.float32),
        "top_probability": np.array([[0.5]], np.float32),
        "top_label": (("a",),),
    },
}


@pytest.mark.parametrize("lie", LIES)
def test_classes_that_cannot_be(connect: Connect, server: Server, lie: str) -> None:
    server.state.always = tail_answer(**LIES[lie])
    with pytest.raises(ProtocolError, match="the tail's answer: "):
        connect(top_k=2, raw_scores=False).predict(GREEN)


@pytest.mark.parametrize("number", ["NaN", "1e999", "-1e999"])
def test_numbers_that_are_none(connect: Connect, server: Server, number: str) -> None:
    faked: list[bytes] = []
    tail_answer()(_Recorder(faked))
    server.state.always = answering(
        200, faked[0].replace(b"3.2", number.encode()), Content_Type="application/json"
    )
    with pytest.raises(ProtocolError, match="the tail's answer: "):
        connect(top_k=2, raw_scores=False).predict(GREEN)


class _Recorder:
    def __init__(self, bodies: list[bytes]) -> None:
        self._bodies = bodies

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._bodies.append(body)


def test_millions_of_classes_are_refused_before_they_are_read(
    connect: Connect, server: Server
) -> None:
    count = 200_000
    server.state.always = tail_answer(
        top_class=np.arange(count)[None],
        top_score=np.zeros((1, count), np.float32),
        top_probability=np.zeros((1, count), np.float32),
        top_label=(("x",) * count,),
    )
    with pytest.raises(ProtocolError, match=r"an answer of at most 8\d{4} bytes"):
        connect(top_k=5, raw_scores=False).predict(GREEN)
    with pytest.raises(ProtocolError, match="expected an answer of at most"):
        connect(top_k=5).predict(GREEN)


def test_scores_of_another_number_of_classes(connect: Connect, server: Server) -> None:
    server.state.always = tail_answer(scores=np.zeros((1, 5), np.float32))
    with pytest.raises(ProtocolError, match="expected scores of 4 classes, got 5"):
        connect(top_k=2).predict(GREEN)


def test_without_a_bundle_the_number_of_classes_is_not_known(
    connect: Connect, server: Server
) -> None:
    server.state.always = tail_answer(split_point="input", top_class=np.array([[70, 3]]))
    client = connect(head=None, top_k=2, raw_scores=False)
    assert client.predict(GREEN).class_id == 70
    server.state.always = tail_answer(split_point="input", **LIES["more classes than asked for"])
    with pytest.raises(ProtocolError, match="expected the best 2 classes"):
        client.predict(GREEN)


def test_labels_are_printable(connect: Connect, server: Server) -> None:
    hostile = ESCAPES.replace("\ud800", "")
    server.state.always = tail_answer(top_label=((hostile, "x" * 5000),))
    top = connect(top_k=2, raw_scores=False).predict(GREEN).top
    assert top[0].label == "\ufffd]0;owned\ufffd\ufffd[2Jgreen\ufffd\ufffd\ufffd"
    assert len(top[1].label) == 512
    local = TailResponse.from_scores(
        np.eye(1, dtype=np.float32),
        [ESCAPES],
        k=1,
        with_scores=False,
        split_point="",
        network_hash="",
    )
    (prediction,) = predictions(local, Cut("output", "none"), Timings())
    assert prediction.label.isprintable()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=12)), max_size=4),
    st.one_of(st.none(), st.integers(-1, 2000)),
    st.booleans(),
)
def test_a_damaged_answer_is_refused_or_within_bounds(
    changes: list[tuple[int, bytes]], json_length: int | None, keeps_length: bool
) -> None:
    scores = np.array([[0.4, 3.2, 0.0, -1.5]], np.float32)
    whole = TailResponse.from_scores(
        scores, ["a", "b", "c", "d"], k=2, with_scores=True, split_point="pool", network_hash="feed"
    )
    encoded, length = whole.encode({"scores", "top_class", "top_probability"})
    body = bytearray(encoded)
    for place, piece in changes:
        at = place % len(body)
        body[at : at + len(piece) if keeps_length else at] = piece
    bounds = AnswerBounds(items=1, top_k=2, classes=4, scores=True)
    try:
        answer = decode_response(body, length if json_length is None else json_length, bounds)
    except WireError:
        return
    assert set(answer.top_class[0].tolist()) < {0, 1, 2, 3}
    assert (answer.top_probability >= 0).all()
    assert (answer.top_probability <= 1.001).all()
    assert answer.scores is None or answer.scores.shape == (1, 4)


ERRORS = {
    "codes": json.dumps({"error": ESCAPES, "code": "bad_query", "details": {ESCAPES: [ESCAPES]}}),
    "torchserve": json.dumps({"type": ESCAPES, "message": ESCAPES}),
    "text": ESCAPES.replace("\ud800", ""),
    "long": json.dumps({"error": "x" * 60_000, "code": "bad_query"}),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_error_bodies_are_printable_and_short(
    connect: Connect, server: Server, name: str, status: int
) -> None:
    server.state.always = answering(status, ERRORS[name].encode(errors="surrogatepass"))
    with pytest.raises(IsplitError) as caught:
        connect(retries=0).predict(GREEN)
    error = caught.value
    assert error.message.isprintable()
    assert len(error.message) <= 2200
    assert printable_json(error.details) == error.details
    json.dumps(error.to_json())


def test_a_huge_error_body_is_not_read_to_its_end(connect: Connect, server: Server) -> None:
    client = connect(retries=0)
    client.predict(GREEN)
    server.state.always = answering(500, b"<" * (20 * MB))
    with at_most(4 * MB), pytest.raises(IsplitError, match="HTTP 500: <<<"):
        client.predict(GREEN)
    server.state.always = answering(400, b'{"code": "bad_query", "error": [' + b"0," * 30_000)
    with at_most(4 * MB), pytest.raises(IsplitError):
        client.predict(GREEN)
    server.state.always = None
    assert client.predict(GREEN).label == "green"


@pytest.mark.parametrize("code", ["bad_query", "busy", "probe_budget", "unknown_codec", "timeout"])
@pytest.mark.parametrize(
    "details",
    [
        {"self": 1, "message": 2, "cls": 3, "details": 4},
        {"retry_after_s": 10**400},
        {"retry_after_s": -1},
        {"retry_after_s": True},
        {"retry_after_s": [1]},
        {"known": 5, "client": 6},
    ],
    ids=str,
)
def test_details_that_are_none(
    connect: Connect, server: Server, code: str, details: dict[str, Any]
) -> None:
    body = json.dumps({"error": "no", "code": code, "details": details}).encode()
    server.state.always = answering(503, body)
    with pytest.raises(IsplitError, match="no"):
        connect(retries=1, deadline=3).predict(GREEN)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(201, 599),
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=4),
                st.dictionaries(
                    st.sampled_from(["code", "error", "details", "type", "message", "x"]), inner
                ),
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_any_error_body_is_an_error(status: int, body: bytes) -> None:
    error = answered_error(status, body, 10)
    assert isinstance(error, IsplitError)
    assert error.message.isprintable()
    json.dumps(error.to_json())


HUGE = {
    "long": json.dumps(recommendation().to_json())[:-1].encode()
    + b', "x": "'
    + b"x" * 20 * MB
    + b'"}',
    "many values": b'{"x": [' + b"{}," * 2_000_000 + b"{}]}",
    "many lists": b'{"x": [' + b"[]," * 2_000_000 + b"[]]}",
    "deep": b"[" * 6_000_000,
}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_recommendation_costs_little(connect: Connect, server: Server, name: str) -> None:
    server.state.always = answering(200, HUGE[name])
    client = connect()
    with at_most(40 * MB), pytest.raises(ProtocolError):
        client.recommendation()


def test_a_recommendation_is_printable(server: Server) -> None:
    raw = recommendation().to_json()
    raw["reason"] = raw["use"]["reason"] = raw["model"] = raw["version"] = ESCAPES
    raw["cuts"][0]["reason"] = ESCAPES
    raw["classes"] = [{"class_id": 1, "label": ESCAPES, "weight": 1.0}]
    server.state.always = answering(200, json.dumps(raw).encode())
    text = recommendation_text(fetch_recommendation(server.url, "toy"))
    assert all(line.isprintable() for line in text.splitlines())
    assert "owned" in text


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values of a JSON value."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from paths(inner, (*path, key))


def full_recommendation() -> dict[str, Any]:
    raw = recommendation().to_json()
    raw["classes"] = [{"class_id": 1, "label": "green", "weight": 1.0}]
    raw["curve"] = [
        {"split_point": "pool", "cui": 0.1, "standard_error": None, "source": "live",
         "live_count": 1.0, "profile_count": 2.0, "nbytes": 12, "devices": None}
    ]  # fmt: skip
    raw["candidates"] = [
        {"split_point": "pool", "predictor_value": 0.1, "standard_error": None, "source": "live",
         "live_count": 1.0, "profile_count": 2.0, "nbytes": 12, "is_candidate": True, "reason": ""}
    ]  # fmt: skip
    raw["standing"] = {"cut": "pool:uint8", "since": 1.0, "changes": 1, "rival": None, "reason": ""}
    return raw


WRONG = [None, True, -1, 2**80, 1e300, "text", "\x1b[2J", [], {}, [[1]], {"x": 1}]


def test_no_field_of_a_recommendation_breaks_the_device() -> None:
    """Each value is replaced by each wrong one: refused, or shown without an exception."""
    assert Recommendation.from_json(full_recommendation()).to_json() == full_recommendation()
    taken = 0
    for path in paths(full_recommendation()):
        for wrong in [*WRONG, float("inf")]:
            raw: Any = {"": full_recommendation()}
            parent = raw
            for key in ("", *path)[:-1]:
                parent = parent[key]
            parent[("", *path)[-1]] = wrong
            try:
                answer = Recommendation.from_json(printable_json(raw[""]))
            except (ArtifactError, QueryError):
                continue
            taken += 1
            assert "use" in recommendation_text(answer)
    assert taken > 0


def test_label_answers(server: Server) -> None:
    def send(*results: Any) -> Any:
        server.state.always = answering(200, json.dumps({"labels": results}).encode())
        return send_labels(server.url, {"r1": 1, "r2": 2}, "secret")

    refusal = {"request_id": "r2", "error": ESCAPES, "code": "unknown_request"}
    report = send({"request_id": "r1", "correct": True}, refusal)
    assert (report.taken, report.correct) == (1, 1)
    assert report.errors["r2"].message.isprintable()
    for results in (
        [{"request_id": "r1"}, {"request_id": "r1"}],
        [{"request_id": "r1"}, {"request_id": "others"}],
        [{"request_id": "r1"}, {"request_id": 2}],
        [{"request_id": "r1"}, {}],
        [{"request_id": "r1"}],
    ):
        with pytest.raises(ProtocolError):
            send(*results)
    server.state.always = answering(200, b'{"labels": [' + b"{}," * 100_000 + b"{}]}")
    with pytest.raises(ProtocolError, match="at most 24576 bytes"):
        send_labels(server.url, {"r1": 1, "r2": 2}, "secret")


def test_class_lists(server: Server) -> None:
    def ask(rows: Any) -> dict[int, str]:
        server.state.always = answering(200, json.dumps({"classes": rows}).encode())
        return fetch_classes(server.url, "toy")

    assert ask([{"id": 3, "label": "a"}, {"id": 1, "label": ESCAPES}])[3] == "a"
    assert all(label.isprintable() for label in ask([{"id": 1, "label": ESCAPES}]).values())
    lists: list[Any] = [5, [5], [{}], [{"id": -1, "label": "a"}], [{"id": 1, "label": 1}], {"a": 1}]
    for rows in lists:
        with pytest.raises(ProtocolError, match="list of classes"):
            ask(rows)
    server.state.always = answering(200, b"[" * 1_000_000)
    with pytest.raises(ProtocolError, match="more than 500000 values"):
        fetch_classes(server.url, "toy")


@given(st.text())
def test_printable_text(text: str) -> None:
    shown = printable(text, limit=10)
    assert shown.isprintable()
    assert len(shown) <= 10
    assert text != shown or text.isprintable()
