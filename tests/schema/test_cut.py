"""Cuts: their text form, which files, URLs and commands share, and their order."""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import QueryError
from isplit_plugin.schema import IMAGE_CODECS, INPUT, NO_CODEC, ON_DEVICE, OUTPUT, Cut
from isplit_plugin.wire import CODECS, codec_names

FIRST = string.ascii_lowercase + string.digits
SPLIT_POINTS = st.text(min_size=1, max_size=40)
CODEC_NAMES = st.one_of(
    st.sampled_from([*CODECS, *IMAGE_CODECS, NO_CODEC]),
    st.builds(str.__add__, st.sampled_from(FIRST), st.text(FIRST + "_.+-", max_size=20)),
)
CUTS = st.builds(Cut, SPLIT_POINTS, CODEC_NAMES, st.none() | st.integers(0, 99))


@given(CUTS)
def test_the_text_form_is_read_back(cut: Cut) -> None:
    assert Cut.parse(str(cut)) == cut
    assert Cut.of(cut.split_point, cut.coding) == cut


@given(CUTS, CUTS)
def test_different_cuts_have_different_texts(one: Cut, other: Cut) -> None:
    assert (str(one) == str(other)) == (one == other)


@pytest.mark.parametrize(
    ("cut", "text"),
    [
        (Cut("layer2", "uint8+zstd"), "layer2:uint8+zstd"),
        (Cut("layer2", "dct", 3), "layer2:dct@3"),
        (Cut("layer2", "dct", 0), "layer2:dct@0"),
        (Cut("layer2~n64s4d2", "q4c+rle+zstd"), "layer2~n64s4d2:q4c+rle+zstd"),
        (Cut("add:1", "fp32"), "add:1:fp32"),
        (Cut(INPUT, "jpeg"), "input:jpeg"),
        (ON_DEVICE, "output:none"),
    ],
)
def test_texts_by_hand(cut: Cut, text: str) -> None:
    assert str(cut) == text
    assert Cut.parse(text) == cut


def test_on_device_is_the_output_without_a_codec() -> None:
    assert (ON_DEVICE.split_point, ON_DEVICE.codec, ON_DEVICE.quality) == (OUTPUT, NO_CODEC, None)


@pytest.mark.parametrize("codec", [*codec_names(), *IMAGE_CODECS, NO_CODEC])
def test_every_codec_has_a_name_that_fits(codec: str) -> None:
    assert Cut.parse(f"layer2:{codec}") == Cut("layer2", codec)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "layer2",
        ":",
        ":uint8",
        "layer2:",
        "layer2:@3",
        "layer2:dct@",
        "layer2:dct@100",
        "layer2:dct@-1",
        "layer2:dct@1.5",
        "layer2:dct@3@4",
        "layer2:dct@٣",
        "layer2:dct@3\n",
        "layer2:uint8\n",
        "layer2:UINT8",
        "layer2: uint8",
        "layer2:uint8 ",
        "layer2:+zstd",
        "layer2:uint8/zstd",
        "layer2:" + "é",
        "x" * 10_000,
        "layer2:" + "X" * 10_000,
    ],
)
def test_odd_text_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match="cut: expected ") as caught:
        Cut.parse(text)
    assert caught.value.details["field"] == "cut"
    assert len(caught.value.message) < 200


@given(st.text(max_size=30) | st.text("a1:@+- ", max_size=12))
def test_any_text_is_a_cut_or_refused(text: str) -> None:
    try:
        cut = Cut.parse(text)
    except QueryError:
        return
    assert Cut.parse(str(cut)) == cut


def test_cuts_sort_by_split_point_then_codec_then_quality() -> None:
    ordered = [
        Cut("a", "dct"),
        Cut("a", "dct", 0),
        Cut("a", "dct", 9),
        Cut("a", "dct", 10),
        Cut("a", "uint8"),
        Cut("b", "dct"),
        Cut("b", "dct", 2),
    ]
    shuffled = [ordered[i] for i in np.random.default_rng(0).permutation(len(ordered))]
    assert sorted(shuffled) == ordered


@given(CUTS, CUTS)
def test_exactly_one_of_two_different_cuts_comes_first(one: Cut, other: Cut) -> None:
    assert (one < other) + (other < one) == (one != other)
