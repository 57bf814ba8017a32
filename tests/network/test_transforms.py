"""Fitting transforms on a small network, and measuring the codec ``dct`` with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toys.network import Transformer, seeded
from toys.serving import CLASSES, PREPROCESSING, toy_network

from isplit_plugin.errors import DataError, UnknownSplitPointError
from isplit_plugin.network import (
    CapturedNetwork,
    FittedTransforms,
    capture,
    fit_transforms,
    profile,
)
from isplit_plugin.network.transforms.closed_form import BasisFamily
from isplit_plugin.network.transforms.fitted import fold_of
from isplit_plugin.network.transforms.statistics import MatrixSum, PointStatistics
from isplit_plugin.network.transforms.tables import TABLES, fitted_tables, laplace_prior
from isplit_plugin.schema import Cut
from isplit_plugin.wire import (
    ALPHABET,
    PRECISION,
    QUALITIES,
    decode_activation,
    encode_activation,
    pack_transforms,
    unpack_transforms,
)

POINTS = ("relu1", "conv2", "flatten")


def smooth_images(count: int, seed: int = 0) -> list[tuple[np.ndarray, int | None]]:
    """Network inputs whose neighbouring pixels are alike, as in photos."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 3, 4, 4))
    inputs = coarse.repeat(4, axis=2).repeat(4, axis=3) + 0.1 * rng.normal(size=(count, 3, 16, 16))
    return [(each.astype(np.float32), None) for each in inputs]


@pytest.fixture(scope="module")
def net() -> CapturedNetwork:
    return toy_network()


@pytest.fixture(scope="module")
def fits(net: CapturedNetwork) -> FittedTransforms:
    return fit_transforms(
        net, smooth_images(64), preprocessing=PREPROCESSING, split_points=POINTS, threads=1
    )


def test_every_split_point_gets_a_transform_that_travels(
    net: CapturedNetwork, fits: FittedTransforms
) -> None:
    assert tuple(fits.transforms) == POINTS
    assert fits.photos == 64
    for name, transform in fits.transforms.items():
        assert transform.network_hash == net.network_hash(PREPROCESSING)
        assert transform.shape == net.split_point(name).shape
        [again] = unpack_transforms(pack_transforms([transform]))
        assert again.split_point == name
    # relu1 is a ReLU, conv2 has values of both signs.
    assert fits.transforms["relu1"].low == 0
    assert fits.transforms["conv2"].low < -1e30


@pytest.mark.parametrize("name", POINTS)
def test_more_bytes_are_nearer_to_the_activation(
    net: CapturedNetwork, fits: FittedTransforms, name: str
) -> None:
    inputs = torch.from_numpy(np.stack([x for x, _ in smooth_images(20, seed=9)]))
    with torch.inference_mode():
        exact = net.bisect(name)[0](inputs).numpy()
    sizes, errors = [], []
    for quality in QUALITIES:
        tensor = encode_activation(exact, f"dct@{quality}", transform=fits.transforms[name])
        back = decode_activation(tensor, shape=exact.shape[1:], transform=fits.transforms[name])
        sizes.append(tensor.nbytes)
        errors.append(float(((back - exact) ** 2).mean()))
    assert sizes[0] < sizes[-1]
    if exact[0].size > 100:
        assert sizes == sorted(sizes)
    assert errors[-1] < 0.2 * errors[0]
    assert errors == sorted(errors, reverse=True)
    # A few bytes for each item say more than none would.
    assert errors[-1] < 0.1 * float(exact.var())


def test_equal_photos_give_equal_transforms(net: CapturedNetwork, fits: FittedTransforms) -> None:
    again = fit_transforms(
        net, smooth_images(64), preprocessing=PREPROCESSING, split_points=POINTS, threads=1
    )
    for name in POINTS:
        first, second = fits.transforms[name], again.transforms[name]
        assert pack_transforms([first]) == pack_transforms([second])


def test_a_photo_is_measured_with_a_transform_fitted_without_it(
    net: CapturedNetwork, fits: FittedTransforms
) -> None:
    images = smooth_images(64)
    # Other photos in fold 0 do not change the transforms that measure fold 0.
    others = smooth_images(64, seed=1)
    mixed = [others[n] if fold_of(n) == 0 else images[n] for n in range(64)]
    changed = fit_transforms(
        net, mixed, preprocessing=PREPROCESSING, split_points=["relu1"], threads=1
    )
    measuring = fits.unseen("relu1", 0)
    again = changed.unseen("relu1", 0)
    assert measuring is not None
    assert again is not None
    # Steps and metric are chosen on all photos; the rest is not.
    ratio = measuring.encoder / np.where(again.encoder == 0, 1, again.encoder)
    if changed.metrics == fits.metrics:
        assert np.allclose(measuring.mean, again.mean, atol=1e-5)
        assert np.allclose(ratio[np.abs(again.encoder) > 1e-2], 1, atol=0.05)
    assert not np.allclose(changed.transforms["relu1"].mean, fits.transforms["relu1"].mean)


def test_a_profile_measures_every_quality(net: CapturedNetwork, fits: FittedTransforms) -> None:
    seen: list[tuple[int, int | None]] = []

    def progress(done: int, total: int | None) -> None:
        seen.append((done, total))

    measured = profile(
        net,
        smooth_images(64),
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        split_points=["relu1", "pool"],
        codecs=["uint8"],
        transforms=fits,
        threads=1,
        progress=progress,
    )
    sizes = []
    for quality in QUALITIES:
        measurement = measured.measurement(Cut("relu1", "dct", quality))
        assert measurement is not None
        assert measurement.images.sum() == 64
        sizes.append(measurement.nbytes)
    assert sizes == sorted(sizes)
    finest = measured.measurement(Cut("relu1", "dct", 7))
    assert finest is not None
    assert finest.agreement >= 0.95
    # Without a transform there is no such codec.
    assert measured.measurement(Cut("pool", "dct", 7)) is None
    assert measured.measurement(Cut("input", "dct", 7)) is None
    assert measured.measurement(Cut("pool", "uint8")) is not None


def test_tokens_are_a_picture_and_a_class_token() -> None:
    net = capture(seeded(Transformer), torch.zeros(1, 3, 16, 16))
    tokens = [p for p in net.split_points if p.shape == (17, 8)]
    patches = [p for p in net.split_points if p.shape == (8, 16)]
    assert {p.channel_axis for p in tokens} == {2}
    assert {p.channel_axis for p in patches} == {1}
    names = [tokens[-1].name, patches[0].name]
    fits = fit_transforms(
        net, smooth_images(32), preprocessing=PREPROCESSING, split_points=names, threads=1
    )
    inputs = torch.from_numpy(np.stack([x for x, _ in smooth_images(4, seed=9)]))
    for name, prefix in zip(names, (1, 0), strict=True):
        transform = fits.transforms[name]
        assert (transform.grid.prefix, transform.grid.height, transform.grid.width) == (
            prefix,
            4,
            4,
        )
        assert len(transform.mean) == 1 + prefix
        with torch.inference_mode():
            exact = np.ascontiguousarray(net.bisect(name)[0](inputs).numpy())
        tensor = encode_activation(exact, "dct@7", transform=transform)
        back = decode_activation(tensor, shape=exact.shape[1:], transform=transform)
        assert float(((back - exact) ** 2).mean()) < 0.1 * float(exact.var())


def test_few_photos_and_unknown_split_points_are_refused(net: CapturedNetwork) -> None:
    options: dict[str, Any] = {"preprocessing": PREPROCESSING, "threads": 1}
    with pytest.raises(DataError, match="at least 16 photos, got 15"):
        fit_transforms(net, smooth_images(15), split_points=["relu1"], **options)
    with pytest.raises(UnknownSplitPointError):
        fit_transforms(net, smooth_images(16), split_points=["nowhere"], **options)


def test_encoder_and_decoder_are_inverse_and_decorrelate() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(500, 6, 1, generator=generator, dtype=torch.float64)
    values = torch.linspace(1, 4, 6, dtype=torch.float64)[:, None] * values.cumsum(dim=1)
    covariance = torch.cov(values[:, :, 0].T)
    metric = torch.diag(torch.linspace(0.2, 2, 6, dtype=torch.float64))
    for exponent in (0.0, 0.5, 1.0):
        basis = BasisFamily(covariance, metric).basis(exponent)
        assert np.allclose(basis.decoder @ basis.encoder, np.eye(6), atol=1e-8)
        coded = basis.encoder @ covariance.numpy() @ basis.encoder.T
        assert np.allclose(coded, np.diag(basis.variances), atol=1e-6)
        assert (np.diff(basis.variances) <= 1e-9).all()


def test_statistics_of_parts_add_up() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(12, 5, 7, generator=generator) + 3
    gradients = torch.randn(12, 5, 7, generator=generator)
    shift = torch.full((1, 5), 2.5, dtype=torch.float64)
    parts = []
    for rows in (slice(0, 5), slice(5, 12)):
        part = PointStatistics.about(shift)
        part.add(values[rows], gradients[rows], prefix=0)
        parts.append(part)
    both = parts[0] + parts[1]
    flat = values.permute(1, 0, 2).reshape(5, -1).double()
    assert torch.allclose(both.mean[0], flat.mean(dim=1), atol=1e-5)
    exact = torch.cov(flat, correction=0)
    # Shrinking moves towards the identity, and leaves the trace.
    covariance = both.covariance()
    assert float(covariance.trace()) == pytest.approx(float(exact.trace()), rel=1e-3)
    off = covariance - torch.diag(covariance.diag())
    assert float(off.norm()) <= float((exact - torch.diag(exact.diag())).norm()) + 1e-6


def test_one_photo_is_shrunk_to_the_identity() -> None:
    total = MatrixSum.zero(3)
    total.add(torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0)))
    total.add(-torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(5)))
    mean = total.shrunk_mean()
    assert float(mean.diag().min()) > 0


def test_tables_add_up_and_leave_nothing_out() -> None:
    counts = np.zeros((TABLES, ALPHABET), np.int64)
    counts[:, 0] = 10**9
    tables = fitted_tables(counts)
    assert (tables.sum(axis=1, dtype=np.int64) == 1 << PRECISION).all()
    assert tables.min() >= 1
    prior = laplace_prior(TABLES)
    assert np.allclose(prior.sum(axis=1), 1)
    # The larger the class, the rarer a zero.
    assert (np.diff(prior[:, 0]) < 0).all()


def test_photos_whose_activations_are_not_finite_are_left_out(
    net: CapturedNetwork,
) -> None:
    images = smooth_images(32)
    broken = [*images[:31], (np.full((3, 16, 16), 3e38, np.float32), None)]
    options: dict[str, Any] = {"preprocessing": PREPROCESSING, "threads": 1}
    fits = fit_transforms(net, broken, split_points=["relu1"], **options)
    assert fits.photos == 31
    assert np.isfinite(fits.transforms["relu1"].mean).all()
