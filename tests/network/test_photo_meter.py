"""Which forms of a photo are measured to the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import PIL.Image
import pytest
import torch

from isplit_plugin import image as im
from isplit_plugin.errors import UnknownCodecError
from isplit_plugin.network import photo_meter
from isplit_plugin.network.photo_meter import MIN_PHOTOS, Photo, PhotoMeter
from isplit_plugin.schema import Cut, FloatArray, Preprocessing

PRE = Preprocessing(crop=(16, 16))
BATCH = 16


def batch(seed: int) -> list[Photo]:
    rng = np.random.default_rng(seed)
    crops = [PIL.Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)) for _ in range(BATCH)]
    return [Photo(f"{seed}", crop, None, im.normalize(crop, PRE)) for crop in crops]


def measure(
    codings: Sequence[str],
    misses: dict[int, list[int]],
    batches: int = 6,
    most_misses: float = math.inf,
) -> tuple[PhotoMeter, int]:
    """Batches of photos in these forms, and how often the network ran.

    ``misses``: form -> the photos of a batch on which it changes the class.
    """
    meter = PhotoMeter(codings, PRE, most_misses)
    calls = 0
    for number in range(batches):
        forms = iter([i for i, cut in enumerate(meter._cuts) if cut not in meter.dropped])

        def run(inputs: FloatArray, forms: object = forms) -> torch.Tensor:
            nonlocal calls
            calls += 1
            scores = torch.tensor([[1.0, 0.0]]).repeat(len(inputs), 1)
            for photo in misses.get(next(forms), []):  # type: ignore[call-overload]
                scores[photo] = torch.tensor([0.0, 1.0])
            return scores

        meter.add(batch(number), run, np.zeros(BATCH, np.int64))
    return meter, calls


def images(meter: PhotoMeter, coding: str) -> int:
    measurements = meter.measurements(np.zeros(6 * BATCH, np.int64), 1)
    return next(int(m.images.sum()) for m in measurements if m.cut == Cut.of("input", coding))


def test_a_form_that_is_hopeless_is_not_measured_to_the_end() -> None:
    meter, calls = measure(["jpeg@90", "jpeg@5"], {1: [0, 1, 2, 3]})
    assert meter.forms == (2, 1)
    assert images(meter, "jpeg@90") == 6 * BATCH
    assert images(meter, "jpeg@5") == MIN_PHOTOS
    assert calls == 6 + MIN_PHOTOS // BATCH
    assert meter.seconds > 0


def test_a_form_that_cannot_be_faithful_any_more_is_measured_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(photo_meter, "HOPELESS", 1.0)
    codings = ["jpeg@90", "jpeg@80"]
    whole, _ = measure(codings, {1: [0]})
    assert images(whole, "jpeg@80") == 6 * BATCH
    meter, _ = measure(codings, {1: [0]}, most_misses=2)
    assert images(meter, "jpeg@90") == 6 * BATCH
    assert images(meter, "jpeg@80") == 3 * BATCH


def test_a_form_that_another_one_beats_in_everything_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter(np.arange(1e6) ** 2)  # every encoding takes longer than the one before
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    # One miss in 16: never hopeless for certain. But the first form is larger, and misses more.
    monkeypatch.setattr(photo_meter, "HOPELESS", 1.0)
    meter, _ = measure(["jpeg@50", "jpeg@95"], {1: [0, 1, 2]})
    assert images(meter, "jpeg@95") == MIN_PHOTOS
    assert images(meter, "jpeg@50") == 6 * BATCH


def test_a_form_with_as_few_misses_or_fewer_bytes_stays() -> None:
    codings = ["jpeg@90", "jpeg@75", "webp@75"]
    meter, calls = measure(codings, {1: [3]}, batches=3)
    assert meter.forms == (3, 0)
    assert calls == 9


def test_what_this_pillow_cannot_write_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda name: name != "avif")
    meter, _ = measure(["jpeg@90", "webp@75", "avif@80"], {}, batches=1)
    assert meter.forms == (2, 0)


@pytest.mark.parametrize("coding", ["jpeg", "file", "gif@3", "uint8", "jpeg@x"])
def test_what_is_no_form_of_a_photo_is_refused(coding: str) -> None:
    with pytest.raises(UnknownCodecError):
        PhotoMeter([coding], PRE)
