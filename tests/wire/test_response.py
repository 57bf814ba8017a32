"""Answers from a hostile server: the decoder raises WireError, and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import WireError
from isplit_plugin.wire import OUTPUTS, TailResponse, decode_response

SCORES = np.array([[1.0, 3.0, 2.0], [0.5, 0.5, -1.0]], np.float32)
SENT = TailResponse.from_scores(
    SCORES,
    ("ant", "b\u00e9e", "cat"),
    k=2,
    with_scores=True,
    split_point="conv",
    network_hash="abc",
    request_id="s",
)


@given(st.sampled_from([frozenset(), frozenset({"scores"}), frozenset(OUTPUTS)]), st.data())
def test_mutated_answers(binary: frozenset[str], data: st.DataObject) -> None:
    body, length = SENT.encode(binary)
    mutated = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        mutated[at] = data.draw(
            st.sampled_from(b'0919[]{}",:.-en\\ \xff\x00') | st.integers(0, 255)
        )
    try:
        got = decode_response(
            mutated[: data.draw(st.sampled_from([None, len(mutated) // 2]))], length
        )
    except WireError:
        return
    # What passes is whole: every item has its k classes, labels and finite scores.
    items, k = got.top_class.shape
    assert got.top_score.shape == got.top_probability.shape == (items, k)
    assert [len(row) for row in got.top_label] == [k] * items
    assert np.isfinite(got.top_score).all()
    assert np.isfinite(got.top_probability).all()
    assert got.scores is None or (len(got.scores) == items and np.isfinite(got.scores).all())
    assert min(got.decode_ms, got.tail_ms) >= 0
