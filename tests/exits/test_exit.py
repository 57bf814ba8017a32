"""An exit's answers, and its bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import DataError, ExitError
from isplit_plugin.exits import BIN_EDGES, BINS, NONE, Exit, ExitSums, bin_of, fit_exit
from isplit_plugin.schema import Cut

FEATURES = 16
CLASSES = 4


def photos(random: np.random.Generator, class_id: int, count: int) -> Any:
    center = np.random.default_rng(class_id).normal(size=FEATURES)
    return center * 3 + random.normal(size=(count, FEATURES))


def fitted(**options: float) -> Exit:
    random = np.random.default_rng(0)
    sums = ExitSums.empty(
        "a" * 64, Cut("layer2", "uint8+zstd"), np.full(FEATURES, -20.0), np.full(FEATURES, 20.0)
    )
    for class_id in range(CLASSES):
        sums.add(photos(random, class_id, 100), np.full(100, class_id))
    for class_id in range(CLASSES, 20):  # seen too rarely
        sums.add(photos(random, class_id, 5), np.full(5, class_id))
    return fit_exit(sums, created=1000.0, **options)


EXIT = fitted()


def test_it_answers_the_classes_with_evidence_and_no_others() -> None:
    random = np.random.default_rng(1)
    assert EXIT.classes == tuple(range(CLASSES))
    for class_id in range(CLASSES):
        answers = EXIT.answers(photos(random, class_id, 50))
        assert sum(answer.class_id == class_id for answer in answers) >= 45
        assert EXIT.answer(photos(random, class_id, 1)[0]).margin > 0
    rare = [EXIT.answer(photos(random, class_id, 1)[0]) for class_id in range(4, 60)]
    assert sum(answer.class_id == NONE for answer in rare) > 40
    far = EXIT.answer(np.full(FEATURES, 1e6))
    assert far == (NONE, 0.0, 0)


def test_bytes_say_the_same_and_the_version_is_the_contents() -> None:
    again = Exit.from_bytes(EXIT.to_bytes())
    assert again.to_bytes() == EXIT.to_bytes()
    assert again.version == EXIT.version
    z = np.random.default_rng(2).normal(size=(40, FEATURES)) * 4
    assert again.answers(z) == EXIT.answers(z)
    renewed = dataclasses.replace(EXIT, created=5.0, expires=6.0)
    assert renewed.version == EXIT.version
    assert renewed.to_bytes() != EXIT.to_bytes()
    assert fitted(shrinkage=0.6).version != EXIT.version


def test_twenty_classes_of_512_channels_are_small() -> None:
    random = np.random.default_rng(3)
    sums = ExitSums.empty("a" * 64, Cut("layer2", "fp16"), np.full(512, -9.0), np.full(512, 9.0))
    ids = np.repeat(np.arange(20), 40)
    sums.add(random.normal(size=(800, 512)), ids)
    assert len(fit_exit(sums, created=0.0).to_bytes()) < 64_000


@given(st.binary(max_size=300), st.data())
def test_foreign_bytes_are_refused(noise: bytes, data: st.DataObject) -> None:
    raw = EXIT.to_bytes()
    at = data.draw(st.integers(0, len(raw) - 1))
    flipped = raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :]
    for hostile in (noise, raw[:at], flipped):
        with pytest.raises(ExitError) as caught:
            Exit.from_bytes(hostile)
        assert caught.value.details["reason"] == "malformed"


@pytest.mark.parametrize(
    "change",
    [
        {"weights": np.full((CLASSES + 1, FEATURES), np.nan, np.float16)},
        {"weights": EXIT.weights[:, :-1]},
        {"weights": EXIT.weights.astype(np.float32)},
        {"bias": EXIT.bias[:-1]},
        {"class_ids": EXIT.class_ids[::-1].copy()},
        {"class_ids": EXIT.class_ids - 5},
        {"created": float("inf")},
        {"created": -1.0},
        {"usual": EXIT.usual * 0},
        {"expires": 1e300},
        {"pooling": "median"},
    ],
)
def test_values_that_no_exit_has_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises((ExitError, ValueError)):  # infinite numbers cannot even be written
        Exit.from_bytes(dataclasses.replace(EXIT, **change).to_bytes())


def test_an_exit_is_checked_against_network_classes_and_time() -> None:
    EXIT.check("a" * 64, 1000, 2000.0)
    for arguments, reason in (
        (("b" * 64, 1000, 2000.0), "network"),
        (("a" * 64, 3, 2000.0), "class"),
        (("a" * 64, 1000, 1000.0 + 86_400), "expired"),
        (("a" * 64, 1000, float("nan")), "expired"),
    ):
        with pytest.raises(ExitError) as caught:
            EXIT.check(*arguments)
        assert caught.value.details["reason"] == reason


def test_bad_features_are_refused() -> None:
    for z in (np.zeros(FEATURES + 1), np.full(FEATURES, np.nan), np.zeros((2, FEATURES))):
        with pytest.raises(DataError, match="features: expected"):
            EXIT.answer(z)


def test_bins_cover_all_margins() -> None:
    assert bin_of(0.0) == 0
    assert bin_of(1e9) == BINS - 1
    assert [bin_of(edge) for edge in BIN_EDGES] == list(range(1, BINS))
