"""The two requests of a refining cut on the wire, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.client import make_manifest
from toys.transforms import toy_transform

from isplit_plugin.errors import IsplitError, UnknownCodecError, WireError
from isplit_plugin.schema import Cut, Manifest, Refinement
from isplit_plugin.wire import (
    FirstAnswer,
    TailRequest,
    TailResponse,
    decode_request,
    decode_response,
    encode_activation,
    margins_of,
)

CUT = Cut("double", "dct", 3, 7)
TRANSFORM = toy_transform((3, 4, 4), split_point="double")
MANIFEST: Manifest = make_manifest(
    codecs=("fp32", *(f"dct@{quality}" for quality in range(8))),
    transforms=("double",),
    refinements=(Refinement("double", 3, (5, 7), 0.2, 0.2, 400, 0, 0.0075),),
)


def request(quality: int, items: int = 2, **fields: Any) -> TailRequest:
    values = np.random.default_rng(1).normal(size=(items, 3, 4, 4)).astype(np.float32)
    tensor = encode_activation(values, f"dct@{quality}", transform=TRANSFORM)
    return TailRequest(**{"cut": CUT, "tensor": tensor, "network_hash": "feed", **fields})


def read(sent: TailRequest) -> TailRequest:
    body, length = sent.encode()
    return decode_request(body, length, None, MANIFEST)


def test_a_first_request_names_the_fine_quality() -> None:
    got = read(request(3))
    assert got.cut == CUT
    assert got.first is None
    assert got.activation(TRANSFORM).shape == (2, 3, 4, 4)
    body, _ = request(3).encode()
    assert b'"isplit_fine":7' in body.replace(b" ", b"")


def test_a_second_request_says_what_the_first_was() -> None:
    first = FirstAnswer(1234, (2, 0), (1,))
    got = read(request(7, first=first))
    assert got.cut == CUT
    assert got.first == first
    fine = decode_request(*request(7, cut=CUT.second).encode(), None, MANIFEST)
    np.testing.assert_array_equal(got.activation(TRANSFORM), fine.activation(TRANSFORM))
    assert fine.cut == CUT.second
    assert fine.first is None


def test_other_requests_say_nothing() -> None:
    body, _ = request(3, cut=CUT.first).encode()
    assert b"isplit_fine" not in body
    assert b"isplit_coarse" not in body


@pytest.mark.parametrize("cut", [Cut("double", "dct", 3, 6), Cut("double", "dct", 2, 7)])
def test_qualities_that_are_no_refining_cut_are_refused(cut: Cut) -> None:
    assert cut.quality is not None
    with pytest.raises(UnknownCodecError, match=rf"unknown codec '{cut.coding[:3]}.*dct@3\+5"):
        read(request(cut.quality, cut=cut))


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (FirstAnswer(10, (1,)), "expected 2 classes, got 1"),
        (FirstAnswer(10, (1, 4)), "expected numbers below 4, got 4"),
        (FirstAnswer(-1, (1, 2)), "isplit_first_bytes"),
        (FirstAnswer(10, (1, 2), (2,)), "isplit_audit: expected numbers below 2"),
        (FirstAnswer(10, (1, 2), (1, 0)), "ascending"),
        (FirstAnswer(10, (1, 2), (0, 0)), "ascending"),
    ],
)
def test_a_second_request_that_does_not_fit_its_items_is_refused(
    first: FirstAnswer, message: str
) -> None:
    with pytest.raises(WireError, match=message):
        read(request(7, first=first))


def test_a_second_request_of_another_first_quality_is_refused() -> None:
    sent = request(7, cut=Cut("double", "dct", 2, 7), first=FirstAnswer(10, (1, 2)))
    with pytest.raises(UnknownCodecError, match=r"dct@2\+7"):
        read(sent)
    # The tensor's own quality is the fine one.
    with pytest.raises(UnknownCodecError, match=r"dct@3\+4"):
        read(request(4, first=FirstAnswer(10, (1, 2))))


NAMES = (
    "isplit_fine",
    "isplit_coarse",
    "isplit_first_bytes",
    "isplit_first_classes",
    "isplit_audit",
)
VALUES = st.one_of(
    st.integers(-(2**63), 2**63), st.text(max_size=40), st.booleans(), st.floats(allow_nan=False)
)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES), st.sampled_from([3, 5, 7]))
def test_any_parameters_are_read_or_refused(values: dict[str, Any], quality: int) -> None:
    from isplit_plugin.wire import message

    sent, length = request(quality, cut=Cut("double", "dct", quality)).encode()
    raw = message.decode_infer_request(sent, length)
    parameters = {**raw.parameters, **values}
    body, length = message.encode_infer_request(
        message.InferRequest(raw.inputs, raw.outputs, raw.id, parameters)
    )
    try:
        got = decode_request(body, length, None, MANIFEST)
    except IsplitError:
        return
    assert got.cut.coding in {"dct@3", "dct@5", "dct@7", "dct@3+5", "dct@3+7"}


def response(**fields: Any) -> TailResponse:
    return TailResponse.from_scores(
        np.eye(3, 4, dtype=np.float32),
        MANIFEST.classes,
        k=2,
        with_scores=False,
        split_point="double",
        network_hash="feed",
        **fields,
    )


def test_an_answer_lists_the_items_to_send_again() -> None:
    for fields in ({}, {"refine": (0, 2), "audit": (2,)}):
        body, length = response(**fields).encode()
        got = decode_response(body, length)
        assert (got.refine, got.audit) == (fields.get("refine", ()), fields.get("audit", ()))
    body, length = response(refine=(0, 3)).encode()
    with pytest.raises(WireError, match="expected numbers below 3, got 3"):
        decode_response(body, length)


def test_margins_are_differences_of_probabilities() -> None:
    scores = np.array([[0, 0, 0], [np.log(8), 0, 0], [1e30, 0, -1e30], [0, 1, np.nan]], np.float32)
    margins = margins_of(scores)
    np.testing.assert_allclose(margins[:3], [0, 0.7, 1], atol=1e-6)
    assert np.isnan(margins[3])
    np.testing.assert_array_equal(margins_of(np.zeros((2, 1), np.float32)), [1, 1])
