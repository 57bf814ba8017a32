"""A probe's answer and report: nothing lost on the way, nothing but WireError from what is none."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.client import make_manifest

from isplit_plugin.errors import WireError
from isplit_plugin.probing.messages import ProbeReport, ProbeResponse, decode_probe_response
from isplit_plugin.wire import (
    TailRequest,
    TailResponse,
    decode_request,
    decode_response,
    encode_activation,
)

SHAPE = (3, 4, 4)
MANIFEST = make_manifest()


def _response(gradient: np.ndarray, **changes: Any) -> ProbeResponse:
    fields: dict[str, Any] = {
        "class_id": 7,
        "ticket": "a.b",
        "split_point": "relu",
        "network_hash": "h",
    }
    return ProbeResponse(gradient=gradient, **(fields | changes))


@pytest.mark.parametrize("power", [-30, -8, 0, 9, 25])
def test_small_and_large_gradients_keep_their_digits_in_fp16(power: int) -> None:
    gradient = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32) * np.float32(
        2.0**power
    )
    body, length = _response(gradient).encode()
    found = decode_probe_response(body, length, SHAPE)
    # 11 bits of mantissa, down to 2^-14 of the largest value; below that the steps stay equal.
    assert np.abs(found.gradient - gradient).max() <= np.abs(gradient).max() * 2.0**-11
    large = np.abs(gradient) > np.abs(gradient).max() * 2.0**-12
    np.testing.assert_allclose(found.gradient[large], gradient[large], rtol=2.0**-11)
    assert (found.class_id, found.ticket, found.split_point, found.network_hash) == (
        7,
        "a.b",
        "relu",
        "h",
    )


def test_fp32_is_exact_and_zero_stays_zero() -> None:
    gradient = np.random.default_rng(1).normal(size=(1, *SHAPE)).astype(np.float32)
    body, length = _response(gradient, codec="fp32", device="ok").encode()
    found = decode_probe_response(body, length, SHAPE)
    np.testing.assert_array_equal(found.gradient, gradient)
    assert found.device == "ok"
    body, length = _response(np.zeros((1, *SHAPE), np.float32)).encode()
    assert not decode_probe_response(body, length, SHAPE).gradient.any()


def test_what_is_no_answer() -> None:
    body, length = _response(np.ones((1, *SHAPE), np.float32)).encode()
    assert length is not None
    with pytest.raises(WireError, match="expected shape"):
        decode_probe_response(body, length, (3, 4, 5))
    for old, new in (
        (b'"isplit_class":7', b'"isplit_class":-'),
        (b"gradient_scale", b"gradient_other"),
    ):
        with pytest.raises(WireError):
            decode_probe_response(body.replace(old, new), length, SHAPE)
    for broken in (
        np.full((1, *SHAPE), np.nan, np.float32),
        np.full((1, *SHAPE), np.inf, np.float32),
    ):
        with pytest.raises(WireError, match="NaN"):
            _response(broken).encode()


@given(st.binary(max_size=200), st.integers(0, 200))
def test_bytes_that_are_none(body: bytes, length: int) -> None:
    with pytest.raises(WireError):
        decode_probe_response(body, length, SHAPE)


def test_reports_go_round() -> None:
    report = ProbeReport(
        ticket="t.s", values=(0.5, 1e-12), network_hash="h", class_id=3, device_token="isplit1.a.b"
    )
    assert ProbeReport.from_json(json.loads(report.encode())["probe"]) == report
    with pytest.raises(WireError, match="NaN"):
        ProbeReport(ticket="t", values=(math.nan,), network_hash="h", class_id=3).encode()
    # An integer too large for a float is a value out of bounds, for others to refuse.
    huge = {"ticket": "t", "values": [10**400], "network": "h", "class": 1}
    assert ProbeReport.from_json(huge).values == (math.inf,)


_FINE = {"ticket": "t", "values": [0.5], "network": "h", "class": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("values", 1),
        ("values", ["1"]),
        ("values", [True]),
        ("values", [0.0] * 4097),
        ("ticket", 7),
        ("ticket", "t" * 20_000),
        ("class", "1"),
        ("class", True),
        ("network", None),
        ("photo", "x"),
        ("device", 5),
    ],
)
def test_reports_that_are_none(name: str, value: object) -> None:
    assert ProbeReport.from_json(_FINE).values == (0.5,)
    with pytest.raises(WireError, match="probe"):
        ProbeReport.from_json({**_FINE, name: value})


@pytest.mark.parametrize("raw", [None, [], {}, {"ticket": "t"}, "x"])
def test_what_is_no_report_at_all(raw: object) -> None:
    with pytest.raises(WireError):
        ProbeReport.from_json(raw)


def _request(**fields: Any) -> tuple[TailRequest, bytes, int | None]:
    tensor = encode_activation(np.ones((1, 3, 4, 4), np.float32), "fp32")
    cut, network_hash = MANIFEST.default, MANIFEST.network_hash
    request = TailRequest(cut=cut, tensor=tensor, network_hash=network_hash, **fields)
    body, length = request.encode()
    return decode_request(body, length, None, MANIFEST), body, length


def test_requests_ask_for_a_gradient_and_name_a_device() -> None:
    plain, body, _ = _request()
    assert (plain.probe, plain.gradient, plain.device_token) == (False, "fp16", None)
    assert b"isplit_probe" not in body
    assert b"isplit_device" not in body
    asked, body, length = _request(probe=True, gradient="fp32", device_token="isplit1.a.b")
    assert (asked.probe, asked.gradient, asked.device_token) == (True, "fp32", "isplit1.a.b")
    for old, new in ((b'"isplit_probe":true', b'"isplit_probe":1234'), (b':"fp32"}', b':"fp64"}')):
        assert old in body
        with pytest.raises(WireError, match="isplit_"):
            decode_request(body.replace(old, new), length, None, MANIFEST)
    # Whatever is in the token's place is for the verifier to judge.
    odd = body.replace(b'"isplit_device":"isplit1.a.b"', b'"isplit_device":12345678901.5')
    assert decode_request(odd, length, None, MANIFEST).device_token == "12345678901.5"


@pytest.mark.parametrize(("device", "rate"), [("", 0.0), ("ok", 0.25), ("invalid: expired", 1.0)])
def test_answers_tell_of_the_token_and_advise(device: str, rate: float) -> None:
    told = {"split_point": "conv", "network_hash": "h", "device": device, "probe_rate": rate}
    response = TailResponse.from_scores(
        np.eye(3, dtype=np.float32)[:1], ("a", "b", "c"), k=2, with_scores=False, **told
    )
    body, length = response.encode()
    found = decode_response(body, length)
    assert (found.device, found.probe_rate) == (device, rate)
    assert (b"isplit_device" in body, b"isplit_probe_rate" in body) == (bool(device), bool(rate))
    if rate:
        for bad in (b"-0.5", b"1.5", b'"x"', b"true"):
            with pytest.raises(WireError, match="isplit_probe_rate"):
                decode_response(body.replace(f'rate":{rate}'.encode(), b'rate":' + bad), length)
