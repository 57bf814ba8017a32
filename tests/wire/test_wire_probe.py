"""A probe's answer and report: nothing lost on the way, nothing but WireError from what is none."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import WireError
from isplit_plugin.wire import ProbeReport, ProbeResponse, decode_probe_response

SHAPE = (3, 4, 4)


def _response(gradient: np.ndarray, **fields: object) -> ProbeResponse:
    told = {"class_id": 7, "ticket": "a.b", "split_point": "relu", "network_hash": "h"} | fields
    return ProbeResponse(gradient=gradient, **told)  # type: ignore[arg-type]


@pytest.mark.parametrize("power", [-30, -8, 0, 9, 25])
def test_small_and_large_gradients_keep_their_digits_in_fp16(power: int) -> None:
    gradient = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32) * np.float32(2.0**power)
    body, length = _response(gradient).encode()
    found = decode_probe_response(body, length, SHAPE)
    # 11 bits of mantissa, down to 2^-14 of the largest value; below that the steps stay equal.
    assert np.abs(found.gradient - gradient).max() <= np.abs(gradient).max() * 2.0**-11
    large = np.abs(gradient) > np.abs(gradient).max() * 2.0**-12
    np.testing.assert_allclose(found.gradient[large], gradient[large], rtol=2.0**-11)
    assert (found.class_id, found.ticket, found.split_point, found.network_hash) == (7, "a.b", "relu", "h")


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
    for old, new in ((b'"isplit_class":7', b'"isplit_class":-'), (b"gradient_scale", b"gradient_other")):
        with pytest.raises(WireError):
            decode_probe_response(body.replace(old, new), length, SHAPE)
    for broken in (np.full((1, *SHAPE), np.nan, np.float32), np.full((1, *SHAPE), np.inf, np.float32)):
        with pytest.raises(WireError, match="NaN"):
            _response(broken).encode()


@given(st.binary(max_size=200), st.integers(0, 200))
def test_bytes_that_are_none(body: bytes, length: int) -> None:
    with pytest.raises(WireError):
        decode_probe_response(body, length, SHAPE)


def test_reports_go_round() -> None:
    report = ProbeReport(ticket="t.s", values=(0.5, 1e-12), network_hash="h", class_id=3, device_token="isplit1.a.b")
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
