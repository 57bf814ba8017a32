"""The threshold of a refinement: its guarantee, what a proof lacks, and the measured cuts."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toys.serving import PREPROCESSING

from isplit_plugin.network import CapturedNetwork, FittedTransforms, capture, fit_transforms
from isplit_plugin.network.codec_meter import CodecMeter
from isplit_plugin.network.refining import LEVEL, MIN_UNREFINED, TOLERANCE, prove, refine
from isplit_plugin.network.samples import Samples
from isplit_plugin.schema import Cut

COARSE = Cut("layer2", "dct", 3)
FINE = Cut("layer2", "dct", 7)


def test_the_fewest_photos_are_the_binomial_ones() -> None:
    assert MIN_UNREFINED == 299
    assert 0.99**299 <= 0.05 < 0.99**298


@pytest.mark.parametrize("shape", ["falling", "steps", "flat"])
def test_the_guarantee_holds_in_1000_simulated_calibrations(shape: str) -> None:
    """At most 5 % of the calibrations may prove a threshold above which more than 1 % differ.

    The chance that an answer differs is, by its margin: falling; 0 above one half and then at once
    high; or everywhere just above what is allowed.
    """
    grid = np.linspace(0, 1, 4001)

    def chance(margin: np.ndarray) -> np.ndarray:
        if shape == "falling":
            return 0.5 * (1 - margin) ** 8
        if shape == "steps":
            return np.where(margin > 0.5, 0.0, 0.2)
        return np.full_like(margin, 0.0101)

    rng = np.random.default_rng(0)
    proven, broken = 0, 0
    for _ in range(1000):
        margins = rng.random(700)
        proof = prove(margins, rng.random(700) < chance(margins))
        if math.isnan(proof.threshold):
            continue
        proven += 1
        above = grid[grid > proof.threshold]
        broken += float(chance(above).mean()) > TOLERANCE
    # 1,000 trials at 5 %: more than 66 would have a chance of 1 %.
    assert broken <= 66
    if shape == "falling":
        assert proven > 500


def test_a_proof_of_surest_answers_without_an_error() -> None:
    margins = np.linspace(1, 0, 500)
    differs = np.zeros(500, bool)
    differs[450:] = True
    proof = prove(margins, differs)
    assert margins[449] == proof.threshold or margins[450] == proof.threshold
    assert proof.differing == 0
    assert proof.photos in (449, 450)
    assert proof.bound == pytest.approx(1 - LEVEL ** (1 / proof.photos), rel=1e-6)
    assert proof.bound <= TOLERANCE


@given(
    margins=st.lists(st.floats(0, 1), max_size=700),
    seed=st.integers(0, 2**32 - 1),
    share=st.floats(0, 0.05),
)
def test_whatever_is_proven_rests_on_what_is_above_it(
    margins: list[float], seed: int, share: float
) -> None:
    values = np.array(margins, np.float64)
    differs = np.random.default_rng(seed).random(len(values)) < share
    proof = prove(values, differs)
    if math.isnan(proof.threshold):
        return
    above = values > proof.threshold
    assert proof.photos == int(above.sum()) >= MIN_UNREFINED
    assert proof.differing == int(differs[above].sum())
    assert proof.differing / proof.photos <= proof.bound <= TOLERANCE + 1e-9


def samples(count: int, *, coarse: bool) -> Samples:
    """The last fifth of the photos has the lowest margins, and differs in the coarse quality."""
    size = 100.0 if coarse else 250.0
    wrong = np.arange(count) >= 0.8 * count
    return Samples.of(
        np.array(
            [
                np.full(count, size),
                np.full(count, 1.0 if coarse else 2.0),
                np.full(count, 0.5),
                np.where(wrong & coarse, 0.0, 1.0),
                np.linspace(1, 0, count),
            ]
        )
    )


def test_a_refining_cut_is_measured_as_if_it_were_used() -> None:
    count = 500
    every = {COARSE: samples(count, coarse=True), FINE: samples(count, coarse=False)}
    refinement, cuts = refine("layer2", every)
    assert refinement is not None
    assert refinement.is_proven
    assert refinement.fine == (7,)  # 5 and 6 were not measured
    assert refinement.share == pytest.approx(0.2, abs=0.005)
    [(cut, measured)] = cuts.items()
    assert str(cut) == "layer2:dct@3+7"
    assert min(measured.agrees) == 1.0
    again = round(refinement.share * count)
    sizes = sorted(set(measured.nbytes))
    assert sizes[0] == 100
    assert 350 <= sizes[1] < 450  # both bodies, and what the second says besides
    assert measured.nbytes.count(sizes[1]) == again
    assert sorted(set(measured.encode_ms)) == [1.0, 3.0]


def test_with_few_photos_refinement_stays_off_and_says_what_is_missing() -> None:
    every = {COARSE: samples(290, coarse=True), FINE: samples(290, coarse=False)}
    refinement, cuts = refine("layer2", every)
    assert refinement is not None
    assert not refinement.is_proven
    assert cuts == {}
    assert refinement.missing == (
        "a proof takes at least 299 photos whose answers are sure, and more that are not; "
        "there were 290"
    )


def test_with_wrong_sure_answers_refinement_stays_off_and_says_so() -> None:
    coarse = samples(400, coarse=True)
    for number in range(8):
        coarse.agrees[number] = 0.0
    refinement, cuts = refine("layer2", {COARSE: coarse, FINE: samples(400, coarse=False)})
    assert refinement is not None
    assert cuts == {}
    assert refinement.missing.startswith("8 of the 299 surest answers differ")
    assert refinement.threshold != refinement.threshold


def test_nothing_is_refined_where_the_codec_was_not_measured() -> None:
    assert refine("layer2", {}) == (None, {})
    assert refine("layer2", {COARSE: samples(400, coarse=True)}) == (None, {})
    assert refine("layer3", {COARSE: samples(400, coarse=True)}) == (None, {})


def test_a_fine_quality_that_was_not_measured_to_the_end_is_left_out() -> None:
    fine = samples(400, coarse=False)
    fine.agrees[399] = math.nan
    assert refine("layer2", {COARSE: samples(400, coarse=True), FINE: fine}) == (None, {})
    other = Cut("layer2", "dct", 6)
    every = {COARSE: samples(400, coarse=True), FINE: fine, other: samples(400, coarse=False)}
    refinement, cuts = refine("layer2", every)
    assert refinement is not None
    assert refinement.fine == (6,)
    assert [str(cut) for cut in cuts] == ["layer2:dct@3+6"]


def test_photos_that_could_not_be_coded_do_not_count() -> None:
    coarse, fine = samples(400, coarse=True), samples(400, coarse=False)
    for each in (coarse, fine):
        each.agrees[0] = each.margins[0] = each.nbytes[0] = math.nan
    refinement, cuts = refine("layer2", {COARSE: coarse, FINE: fine})
    assert refinement is not None
    assert refinement.is_proven
    [measured] = cuts.values()
    assert math.isnan(measured.agrees[0])


def sure_network() -> CapturedNetwork:
    """The toy network with scores far apart, so that many answers are sure."""
    torch.manual_seed(0)
    layers = OrderedDict(
        conv1=nn.Conv2d(3, 4, 3, stride=2, padding=1),
        relu1=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(2),
        flatten=nn.Flatten(),
        fc=nn.Linear(16, 5),
    )
    network = nn.Sequential(layers).eval()
    with torch.no_grad():
        next(layers["fc"].parameters()).mul_(60)
    return capture(network, torch.randn(1, 3, 16, 16))


@pytest.fixture(scope="module")
def metered() -> tuple[CodecMeter, FittedTransforms]:
    """Two qualities at relu1 on 420 photos."""
    net = sure_network()
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(420, 3, 4, 4)).repeat(4, axis=2).repeat(4, axis=3)
    inputs = (coarse + 0.1 * rng.normal(size=coarse.shape)).astype(np.float32)
    images = [(each, None) for each in inputs[:64]]
    fits = fit_transforms(
        net, images, preprocessing=PREPROCESSING, split_points=["relu1"], threads=1
    )
    head, tail = net.bisect("relu1")
    meter = CodecMeter({"relu1": tail}, ["dct@2", "dct@3", "dct@7"], transforms=fits, most_misses=8)
    for start in range(0, len(inputs), 20):
        x = torch.from_numpy(inputs[start : start + 20])
        with torch.inference_mode():
            values = head(x)
            top = tail(values).argmax(dim=1).numpy()
        meter.add_activations("relu1", values, top, range(start, start + len(x)))
    return meter, fits


def test_a_calibration_set_that_is_large_enough_proves_a_threshold(
    metered: tuple[CodecMeter, FittedTransforms],
) -> None:
    meter, _ = metered
    [refinement] = meter.refinements()
    assert refinement.is_proven, refinement.missing
    assert 0 < refinement.share < 1 - MIN_UNREFINED / 420
    assert refinement.bound <= TOLERANCE
    rows = np.zeros(420, np.int64)
    measured = {str(m.cut): m for m in meter.measurements(rows, 1)}
    coarse, fine, refining = (measured[f"relu1:dct@{q}"] for q in ("3", "7", "3+7"))
    # The coarse quality is measured on all photos, however many it misses; another is not.
    assert coarse.images.sum() == 420
    assert measured["relu1:dct@2"].images.sum() < 420
    assert coarse.agreement < refining.agreement
    assert refining.agreement >= fine.agreement - TOLERANCE
    again = refinement.share * (fine.nbytes + 48)
    assert refining.nbytes == pytest.approx(coarse.nbytes + again, rel=0.02)


def test_the_threshold_is_that_of_the_shared_margin(
    metered: tuple[CodecMeter, FittedTransforms],
) -> None:
    meter, _ = metered
    [refinement] = meter.refinements()
    samples = meter.samples[Cut("relu1", "dct", 3)]
    margins = np.array(samples.margins)
    assert float((margins <= refinement.threshold).mean()) == refinement.share
    wrong = np.array(samples.agrees)[margins > refinement.threshold] == 0
    assert (refinement.differing, refinement.photos) == (wrong.sum(), len(wrong))
