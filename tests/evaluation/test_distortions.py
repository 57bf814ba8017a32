"""Distortions by hand, against numpy, and for data that they restore exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isplit_plugin.evaluation.distortions import (
    DISTORTIONS,
    PatchProjection,
    pool,
    project,
    quantise,
)


@pytest.mark.parametrize("name", sorted(DISTORTIONS))
@pytest.mark.parametrize("shape", [(4, 7, 9), (16, 1, 12), (9, 4, 4)])
def test_every_distortion_keeps_the_shape_and_constant_maps(
    name: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    maps = torch.randn(40, *shape)
    distorted = DISTORTIONS[name](maps)(maps[:3])
    assert distorted.shape == (3, *shape)
    assert torch.isfinite(distorted).all()
    constant = torch.full((40, *shape), 2.5)
    torch.testing.assert_close(DISTORTIONS[name](constant)(constant[:2]), constant[:2])


def test_pool_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 3.0, 5.0], [1.0, 3.0, 7.0], [4.0, 8.0, 9.0]]]])
    assert pool(2, maps)[0, 0].tolist() == [[2, 2, 6], [2, 2, 6], [6, 6, 9]]


def test_quantise_by_hand() -> None:
    maps = torch.tensor([0.0, 0.4, 0.6, 3.0]).reshape(1, 1, 2, 2)
    assert quantise(1, maps).flatten().tolist() == [0, 0, 0, 3]
    assert quantise(2, maps).flatten().tolist() == [0, 0, 1, 3]


def test_the_largest_error_of_quantise_is_half_a_step() -> None:
    torch.manual_seed(0)
    maps = torch.randn(5, 3, 4, 4)
    step = (maps.flatten(1).amax(1) - maps.flatten(1).amin(1)) / 15
    errors = (quantise(4, maps) - maps).abs().flatten(1).amax(1)
    assert (errors <= step / 2 + 1e-6).all()


def test_project_is_exact_for_data_of_that_rank() -> None:
    torch.manual_seed(1)
    maps = torch.einsum("nkhw,ck->nchw", torch.randn(20, 2, 5, 5), torch.randn(8, 2)) + 3
    torch.testing.assert_close(project(1 / 4, maps)(maps), maps, rtol=1e-4, atol=1e-4)
    assert (project(1 / 8, maps)(maps) - maps).abs().max() > 0.1


def test_project_equals_numpys_principal_components() -> None:
    torch.manual_seed(2)
    maps = torch.randn(30, 6, 3, 3) * torch.arange(1.0, 7.0)[:, None, None]
    rows = maps.movedim(1, -1).reshape(-1, 6).double().numpy()
    mean = rows.mean(axis=0)
    _, _, directions = np.linalg.svd(rows - mean, full_matrices=False)
    expected = (rows - mean) @ directions[:2].T @ directions[:2] + mean
    projected = project(1 / 3, maps)(maps).movedim(1, -1).reshape(-1, 6).double().numpy()
    np.testing.assert_allclose(projected, expected, rtol=1e-3, atol=1e-3)


def test_a_patch_projection_has_the_size_of_a_bottleneck() -> None:
    torch.manual_seed(3)
    smooth = torch.nn.functional.interpolate(
        torch.randn(60, 16, 3, 3), size=(12, 12), mode="bilinear"
    )
    distorted = PatchProjection().fit(smooth)(smooth)
    # 16 channels give 2 * max(1, 16 // 8) = 4 numbers for each 4 x 4 patch, hence rank 4.
    patches = torch.nn.functional.unfold(distorted, 4, stride=4).transpose(1, 2).flatten(0, 1)
    centred = patches - patches.mean(dim=0)
    assert torch.linalg.matrix_rank(centred.double(), rtol=1e-4) == 4
    error = (distorted - smooth).square().mean()
    assert error < (smooth - smooth.mean()).square().mean()


def test_a_patch_projection_is_exact_for_patches_of_its_rank() -> None:
    torch.manual_seed(4)
    basis = torch.randn(2, 8 * 16)
    patches = torch.randn(50, 9, 2) @ basis
    maps = torch.nn.functional.fold(patches.transpose(1, 2), (12, 12), 4, stride=4)
    torch.testing.assert_close(PatchProjection().fit(maps)(maps), maps, rtol=1e-3, atol=1e-3)
