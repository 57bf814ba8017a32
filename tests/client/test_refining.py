"""The second request of a refining cut, by a server that is asked and one that does not answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys.client import (
    Handler,
    Server,
    bundle_files,
    hang,
    make_manifest,
    photo,
    torchserve_error,
    write_zip,
)
from toys.polling import until
from toys.transforms import toy_transform

from isplit_plugin.client import SplitClient
from isplit_plugin.errors import IsplitError, ProtocolError, ServerTimeoutError, WireError
from isplit_plugin.schema import Cut, Refinement
from isplit_plugin.wire import (
    TailRequest,
    TailResponse,
    decode_request,
    find_header,
    header_length,
    http_headers,
    pack_transforms,
)

CUT = Cut("double", "dct", 3, 7)
TRANSFORM = toy_transform((3, 4, 4), network_hash="feed", split_point="double", step=0.2)
CHANGES: dict[str, Any] = {
    "codecs": ("fp32", *(f"dct@{quality}" for quality in range(8))),
    "transforms": ("double",),
    "refinements": (Refinement("double", 3, (7,), 0.2, 0.2, 400, 0, 0.0075),),
}
PHOTOS = [photo(51, 204, 0), photo(0, 0, 255), photo(250, 5, 5)]


class Tail:
    """Answers requests, and asks for ``refine`` again. ``requests``: what came."""

    def __init__(
        self,
        refine: tuple[int, ...] = (),
        audit: tuple[int, ...] = (),
        second_refine: tuple[int, ...] = (),
    ) -> None:
        self.refine, self.audit, self.second_refine = refine, audit, second_refine
        self.requests: list[TailRequest] = []
        self.manifest = make_manifest(**CHANGES)

    def __call__(self, handler: Handler) -> None:
        body = handler.server.state.seen[-1].body
        headers = dict(handler.headers)
        request = decode_request(
            body, header_length(headers), find_header(headers, "Content-Type"), self.manifest
        )
        self.requests.append(request)
        first = request.first is None
        values = request.activation(TRANSFORM).mean(axis=(2, 3))
        scores = np.pad(values, ((0, 0), (0, 1)))
        answer = TailResponse.from_scores(
            scores,
            self.manifest.classes,
            k=request.top_k,
            with_scores=request.scores,
            split_point=request.split_point,
            network_hash="feed",
            request_id=f"s-{len(self.requests)}",
            decode_ms=0.25,
            tail_ms=1.5,
            refine=self.refine if first else self.second_refine,
            audit=self.audit if first else (),
        )
        data, length = answer.encode(request.binary_outputs)
        handler.answer(200, data, http_headers(length))


@pytest.fixture
def head(tmp_path: Path) -> Path:
    extra = {"transforms/double.safetensors": pack_transforms([TRANSFORM])}
    return write_zip(tmp_path / "toy.head.zip", bundle_files(extra=extra, **CHANGES))


@pytest.fixture
def open_client(server: Server, head: Path) -> Callable[..., SplitClient]:
    def open_one(**options: Any) -> SplitClient:
        options = {"cut": CUT, "raw_scores": True, "retries": 0, **options}
        return SplitClient(server.url, model="toy", head=head, **options)

    return open_one


def test_a_sure_answer_is_one_request(
    server: Server, open_client: Callable[..., SplitClient]
) -> None:
    server.state.always = tail = Tail()
    with open_client() as client:
        prediction = client.predict(PHOTOS[0])
    [request] = tail.requests
    assert request.cut == CUT
    assert request.tensor.parameters["isplit_codec"] == "dct@3"
    assert (prediction.cut, prediction.round_trips, prediction.is_sure) == (CUT, 1, True)
    assert prediction.bytes_sent == len(server.state.seen[-1].body)


def test_unsure_images_of_a_batch_are_sent_again_together(
    server: Server, open_client: Callable[..., SplitClient]
) -> None:
    server.state.always = tail = Tail(refine=(0, 2), audit=(2,))
    with open_client() as client:
        predictions = client.predict_batch(PHOTOS)
        tail.refine = tail.audit = ()
        exact = [client.predict(each, "double:fp32") for each in PHOTOS]
        fine = [client.predict(each, CUT.second) for each in PHOTOS]
    first, second = tail.requests[:2]
    assert second.first is not None
    assert second.tensor.parameters["isplit_codec"] == "dct@7"
    assert second.batch == 2
    bodies = [len(seen.body) for seen in server.state.seen[:2]]
    classes = np.array([prediction.class_id for prediction in exact])
    assert second.first.classes == (classes[0], classes[2])
    assert second.first.audited == (1,)
    assert abs(second.first.nbytes - bodies[0] * 2 / 3) <= 1
    assert sum(prediction.bytes_sent for prediction in predictions) == sum(bodies)
    assert [prediction.round_trips for prediction in predictions] == [2, 1, 2]
    assert all(prediction.is_sure for prediction in predictions)
    for item in (0, 2):
        scores, expected = predictions[item].scores, fine[item].scores
        assert scores is not None
        assert expected is not None
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        assert predictions[item].request_id == "s-2"
    # All images wait for both requests.
    [timings] = {prediction.timings for prediction in predictions}
    assert timings.tail_ms == pytest.approx(3.0)
    assert timings.head_ms == pytest.approx(first.head_ms, rel=0.01)
    assert second.head_ms == pytest.approx(first.head_ms * 2 / 3, rel=0.01)


def unavailable(handler: Handler) -> None:
    body = json.dumps({"code": 503, "type": "ServiceUnavailableException", "message": "no worker"})
    handler.answer(503, body.encode(), {"Content-Type": "application/json"})


def test_where_no_second_answer_comes_the_first_one_stands(
    server: Server, open_client: Callable[..., SplitClient]
) -> None:
    tail = Tail(refine=(0, 1), audit=(1,))
    server.state.faults = [tail, unavailable]
    with open_client() as client:
        unsure, audited, sure = client.predict_batch(PHOTOS)
    assert [each.is_sure for each in (unsure, audited, sure)] == [False, True, True]
    assert {each.round_trips for each in (unsure, audited, sure)} == {1}
    assert unsure.request_id == "s-1"


def test_both_requests_share_the_deadline(
    server: Server, open_client: Callable[..., SplitClient]
) -> None:
    with open_client(deadline=1.0) as client:

        def shared() -> bool:
            server.state.faults = [Tail(refine=(0,)), hang]
            try:
                prediction = client.predict(PHOTOS[0])
            except ServerTimeoutError:  # a busy machine: the first answer came too late
                return False
            assert not prediction.is_sure
            # With a deadline of its own, the second request would always take longer than that.
            return prediction.timings.round_trip_ms < 1500

        until(shared)
        server.state.stop.set()


@pytest.mark.parametrize(
    ("tail", "cut", "message"),
    [
        (Tail(refine=(0,)), CUT.first, "asked for a second request"),
        (Tail(refine=(0,), audit=(0, 1)), CUT, "audit"),
        (Tail(audit=(0,)), CUT, "audits items"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(
    server: Server,
    open_client: Callable[..., SplitClient],
    tail: Tail,
    cut: Cut,
    message: str,
) -> None:
    server.state.always = tail
    with open_client() as client, pytest.raises(ProtocolError, match=message):
        client.predict(PHOTOS[0], cut)


def refuse(handler: Handler) -> None:
    error = WireError("isplit_first_classes: no")
    body = json.dumps(error.to_json()).encode()
    handler.answer(error.status, body, {"Content-Type": "application/json"})


@pytest.mark.parametrize(
    "fault",
    [
        refuse,
        torchserve_error(404, "ModelNotFoundException", "Model not found: toy"),
        torchserve_error(500, "InternalServerException", "no such thing"),
        Tail(refine=(0,), second_refine=(0,)),
        lambda handler: handler.answer(200, b"{}", {"Content-Type": "application/json"}),
    ],
    ids=["refused", "unknown model", "failed", "asks for a third", "no answer of a tail"],
)
def test_a_second_request_that_fails_leaves_the_first_answer(
    server: Server, open_client: Callable[..., SplitClient], fault: Callable[[Handler], None]
) -> None:
    server.state.faults = [Tail(refine=(0,)), fault]
    with open_client() as client:
        prediction = client.predict(PHOTOS[0])
    assert (prediction.is_sure, prediction.round_trips, prediction.request_id) == (False, 1, "s-1")
    assert len([seen for seen in server.state.seen if seen.method == "POST"]) == 2


@pytest.mark.parametrize("status", [400, 404, 409])
def test_a_first_request_that_is_refused_raises(
    server: Server, open_client: Callable[..., SplitClient], status: int
) -> None:
    server.state.always = torchserve_error(status, "BadRequestException", "no")
    with open_client() as client, pytest.raises(IsplitError):
        client.predict(PHOTOS[0])


def test_a_refining_cut_is_taken_by_name_only(open_client: Callable[..., SplitClient]) -> None:
    with open_client() as client:
        assert client.resolve("double:dct@3+7") == CUT
        # The codec alone is its finest quality, in one request.
        assert client.resolve("double:dct") == Cut("double", "dct", 7)
        assert client.can_take(CUT)
        assert not client.can_take(replace(CUT, fine=6))
