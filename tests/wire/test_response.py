"""Answers of a tail: round trips, stock clients, and a hostile server."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import WireError
from isplit_plugin.wire import OUTPUTS, TailResponse, decode_response, top_k

SCORES = np.array([[1.0, 3.0, 2.0], [0.5, 0.5, -1.0]], np.float32)


def make_response(**changes: Any) -> TailResponse:
    defaults: dict[str, Any] = {
        "k": 2,
        "with_scores": True,
        "split_point": "conv",
        "network_hash": "abc123",
    }
    return TailResponse.from_scores(
        SCORES, ("ant", "b\u00e9e", "cat"), **{**defaults, "request_id": "s1", **changes}
    )


@pytest.mark.parametrize("binary", [frozenset(), frozenset({"scores"}), frozenset(OUTPUTS)])
def test_an_answer_comes_back(binary: frozenset[str]) -> None:
    sent = make_response(
        decode_ms=0.1234, tail_ms=7.0, queue_ms=2.5, model="toy", version="1.0", id="r1"
    )
    decoded = decode_response(*sent.encode(binary))
    assert decoded.top_class.tolist() == [[1, 2], [0, 1]]  # the lower id first among equals
    assert decoded.top_label == (("b\u00e9e", "cat"), ("ant", "b\u00e9e"))
    assert decoded.top_score.tolist() == [[3.0, 2.0], [0.5, 0.5]]
    weights = np.exp(SCORES.astype(np.float64))
    expected = np.take_along_axis(
        weights / weights.sum(axis=1, keepdims=True), decoded.top_class, axis=1
    )
    np.testing.assert_allclose(decoded.top_probability, expected, rtol=1e-6)
    assert decoded.scores is not None
    assert decoded.scores.tobytes() == SCORES.tobytes()
    assert (decoded.split_point, decoded.network_hash) == ("conv", "abc123")
    assert (decoded.decode_ms, decoded.tail_ms, decoded.queue_ms) == (0.123, 7.0, 2.5)
    assert (decoded.model, decoded.version) == ("toy", "1.0")
    assert (decoded.request_id, decoded.id) == ("s1", "r1")


def test_tritonclient_reads_an_answer() -> None:
    body, length = make_response().encode(frozenset(OUTPUTS))
    result = triton.InferenceServerClient.parse_response_body(body, header_length=length)
    assert result.as_numpy("top_class").tolist() == [[1, 2], [0, 1]]
    labels = [label.decode() for label in result.as_numpy("top_label").ravel()]
    assert labels == ["b\u00e9e", "cat", "ant", "b\u00e9e"]
    np.testing.assert_array_equal(result.as_numpy("scores"), SCORES)
    body, length = make_response(with_scores=False).encode()
    assert length is None
    assert "scores" not in [output["name"] for output in json.loads(body)["outputs"]]


def test_top_k_of_few_classes_and_few_labels() -> None:
    ids, best, probabilities = top_k(np.array([[-1e38, 1e38]], np.float32), 5)
    assert (ids.tolist(), best.shape, probabilities.tolist()) == ([[1, 0]], (1, 2), [[1.0, 0.0]])
    assert TailResponse.from_scores(
        SCORES, ("ant",), k=1, with_scores=False, split_point="c", network_hash="h"
    )
    assert make_response(k=1).top_label == (("b\u00e9e",), ("ant",))


@pytest.mark.parametrize(
    "scores", [np.array([1.0]), np.zeros((0, 3)), np.array([[np.nan, 1]]), np.array([[np.inf, 1]])]
)
def test_scores_that_cannot_be_answered(scores: np.ndarray) -> None:
    with pytest.raises(WireError):
        TailResponse.from_scores(
            scores, (), k=1, with_scores=True, split_point="c", network_hash="h"
        )


RAW = json.loads(make_response().encode()[0])
"""A complete answer as JSON."""


def with_output(name: str, change: dict[str, Any]) -> dict[str, Any]:
    outputs = [{**o, **change} if o["name"] == name else o for o in RAW["outputs"]]
    return {**RAW, "outputs": outputs}


@pytest.mark.parametrize("name", ["top_class", "top_score", "top_probability", "top_label"])
def test_an_answer_without_an_output_is_refused(name: str) -> None:
    outputs = [output for output in RAW["outputs"] if output["name"] != name]
    with pytest.raises(WireError, match=f"lacks the output '{name}'"):
        decode_response(json.dumps({**RAW, "outputs": outputs}).encode(), None)


@pytest.mark.parametrize(
    "hostile",
    [
        with_output("top_class", {"data": [-1, 0, 0, 0]}),
        with_output("top_class", {"shape": [4]}),
        with_output("top_class", {"datatype": "INT32"}),
        with_output("top_score", {"shape": [1, 4]}),
        with_output("top_label", {"datatype": "FP32", "data": [1, 2, 3, 4]}),
        with_output("scores", {"shape": [3, 2]}),
        {**RAW, "parameters": {**RAW["parameters"], "isplit_split_point": 3}},
        {**RAW, "parameters": {**RAW["parameters"], "isplit_probe_rate": 1.5}},
        {**RAW, "parameters": {}},
    ],
)
def test_hostile_answers(hostile: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        decode_response(json.dumps(hostile).encode(), None)


@pytest.mark.parametrize("stamp", [-1, "1", 1e308, True, 3_600_001, 2**63])
def test_a_time_that_cannot_be_costs_no_answer(stamp: Any) -> None:
    for name in ("decode_ms", "tail_ms", "queue_ms"):
        stamps = {f"isplit_{name}": stamp}
        changed = {**RAW, "parameters": {**RAW["parameters"], **stamps}}
        answer = decode_response(json.dumps(changed).encode(), None)
        assert answer.request_id == "s1"
        assert getattr(answer, name) == 0


def test_the_answer_that_the_hostile_ones_change_is_read() -> None:
    assert decode_response(json.dumps(RAW).encode(), None).request_id == "s1"


@given(st.sampled_from([frozenset(), frozenset({"scores"}), frozenset(OUTPUTS)]), st.data())
def test_mutated_answers(binary: frozenset[str], data: st.DataObject) -> None:
    body, length = make_response().encode(binary)
    mutated = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        mutated[at] = data.draw(
            st.sampled_from(b'0919[]{}",:.-en\\ \xff\x00') | st.integers(0, 255)
        )
    try:
        answer = decode_response(
            mutated[: data.draw(st.sampled_from([None, len(mutated) // 2]))], length
        )
    except WireError:
        return
    # What passes is whole: every item has its k classes, labels and finite scores.
    items, k = answer.top_class.shape
    assert answer.top_score.shape == answer.top_probability.shape == (items, k)
    assert [len(row) for row in answer.top_label] == [k] * items
    assert np.isfinite(answer.top_score).all()
    assert np.isfinite(answer.top_probability).all()
    assert answer.scores is None or (
        len(answer.scores) == items and np.isfinite(answer.scores).all()
    )
    assert min(answer.decode_ms, answer.tail_ms, answer.queue_ms) >= 0
