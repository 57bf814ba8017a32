"""Bytes at equal divergence, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.transform import Measured, _against_photos, bytes_at


def _measured(label: str, nbytes: float, divergence: float) -> Measured:
    photos = np.ones(4)
    return Measured(label, nbytes * photos, divergence * photos, photos, 0.0, 0.0)


def test_bytes_lie_between_the_codings_around_and_nowhere_beyond() -> None:
    points = [_measured("x@1", 1_000, 0.1), _measured("x@2", 4_000, 0.001)]
    rows = np.arange(4)
    assert bytes_at(points, rows, 0.01) == pytest.approx(2_000)
    assert bytes_at(points, rows, 0.1) == pytest.approx(1_000)
    assert math.isnan(bytes_at(points, rows, 0.2))
    assert math.isnan(bytes_at(points, rows, 1e-4))


def test_the_rival_is_the_best_format_that_reaches_the_divergence() -> None:
    codes = [_measured("n p:dct@1", 500, 0.1), _measured("n p:dct@2", 2_000, 0.001)]
    photos = [
        _measured("n input:avif@70", 9_000, 0.01),  # the smallest of its format does less
        _measured("n input:jpeg@90", 8_000, 0.002),
        _measured("n input:jpeg@50", 8_000, 0.03),
    ]
    only, _ = _against_photos("n p", codes, photos)
    assert only["name"].startswith("n p: bytes at 0.02 nats")
    assert only["ratio"] == pytest.approx(only["value"] / 8_000)
    assert only["low"] == only["high"] == pytest.approx(only["ratio"])
    first, *_ = _against_photos("n p", codes, photos[:1])
    assert first["ratio"] == pytest.approx(first["value"] / 9_000)
    finer = [_measured("n input:avif@70", 9_000, 0.06), _measured("n input:avif@60", 8_000, 0.07)]
    assert not list(_against_photos("n p", codes, finer))
    assert not list(_against_photos("n p", codes[1:], photos))


def test_photos_of_fewer_pixels_are_a_rival_of_their_own() -> None:
    codes = [_measured("n p:dct@1", 500, 0.1), _measured("n p:dct@2", 2_000, 0.001)]
    photos = [
        _measured("n input:avif@90", 9_000, 0.002),
        _measured("n input:avif@50", 9_000, 0.03),
        _measured("n input:avif/0.5@90", 4_000, 0.01),
        _measured("n input:avif/0.5@50", 4_000, 0.04),
    ]
    whole, *_ = _against_photos("n p", codes, photos[:2])
    first, *_ = _against_photos("n p", codes, photos)
    assert whole["ratio"] == pytest.approx(whole["value"] / 9_000)
    assert first["ratio"] == pytest.approx(first["value"] / 4_000)
