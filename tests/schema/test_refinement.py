"""Refinements as JSON, and refining cuts as text."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from isplit_plugin.errors import QueryError
from isplit_plugin.schema import Cut, Refinement

PROVEN = Refinement("layer2", 3, (5, 7), 0.2, 0.17, 413, 0, 0.0072)
MISSING = replace(PROVEN, threshold=math.nan, share=math.nan, bound=1.0, missing="12 photos")


def test_a_refining_cut_as_text() -> None:
    cut = Cut.parse("layer2:dct@3+7")
    assert cut == Cut("layer2", "dct", 3, 7)
    assert str(cut) == "layer2:dct@3+7"
    assert cut.is_refining
    assert (cut.first, cut.second) == (Cut("layer2", "dct", 3), Cut("layer2", "dct", 7))
    assert Cut("a", "dct", 3) < cut.__class__("a", "dct", 3, 5) < Cut("a", "dct", 3, 7)
    plain = Cut.parse("layer2:uint8+zstd")
    assert not plain.is_refining
    assert plain.first == plain.second == plain


@pytest.mark.parametrize(
    "text", ["a:dct@+7", "a:dct@3+", "a:dct@3+7+8", "a:dct@3+777", "a:dct@3-7"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(QueryError, match="expected a codec"):
        Cut.parse(text)


def test_only_a_proven_refinement_has_cuts() -> None:
    assert [str(cut) for cut in PROVEN.cuts] == ["layer2:dct@3+5", "layer2:dct@3+7"]
    assert MISSING.cuts == ()
    for refinement in (PROVEN, MISSING):
        again = Refinement.from_json(refinement.to_json())
        assert again.to_json() == refinement.to_json()
        assert again.is_proven == refinement.is_proven


@pytest.mark.parametrize(
    "changes", [{"threshold": 1.5}, {"share": -0.1}, {"bound": math.nan}, {"fine": [3]}]
)
def test_impossible_numbers_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="refinement"):
        Refinement.from_json(PROVEN.to_json() | changes)
