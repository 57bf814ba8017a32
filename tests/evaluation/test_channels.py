from __future__ import annotations

import numpy as np
import pytest
import torch

from isplit_plugin.evaluation.channels import CHANNELS, LinearCode, pool, project, quantise


@pytest.mark.parametrize("name", sorted(CHANNELS))
@pytest.mark.parametrize("shape", [(4, 7, 9), (16, 1, 12), (9, 4, 4)])
def test_every_channel_keeps_the_shape_and_stays_near(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    maps = torch.randn(40, *shape)
    out = CHANNELS[name](maps)(maps[:3])
    assert out.shape == (3, *shape)
    assert torch.isfinite(out).all()
    constant = torch.full((40, *shape), 2.5)
    torch.testing.assert_close(CHANNELS[name](constant)(constant[:2]), constant[:2])


def test_pool_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 3.0, 5.0], [1.0, 3.0, 7.0], [4.0, 8.0, 9.0]]]])
    assert pool(2, maps)[0, 0].tolist() == [[2, 2, 6], [2, 2, 6], [6, 6, 9]]


def test_quantise_by_hand() -> None:
    maps = torch.tensor([0.0, 0.4, 0.6, 3.0]).reshape(1, 1, 2, 2)
    assert quantise(1, maps).flatten().tolist() == [0, 0, 0, 3]
    assert quantise(2, maps).flatten().tolist() == [0, 0, 1, 3]
    # The worst error is half a step.
    x = torch.randn(5, 3, 4, 4)
    step = (x.flatten(1).amax(1) - x.flatten(1).amin(1)) / 15
    assert ((quantise(4, x) - x).abs().flatten(1).amax(1) <= step / 2 + 1e-6).all()


def test_projection_is_exact_for_data_of_that_rank() -> None:
    torch.manual_seed(1)
    maps = torch.einsum("nkhw,ck->nchw", torch.randn(20, 2, 5, 5), torch.randn(8, 2)) + 3
    torch.testing.assert_close(project(1 / 4, maps)(maps), maps, rtol=1e-4, atol=1e-4)
    assert (project(1 / 8, maps)(maps) - maps).abs().max() > 0.1


def test_projection_is_numpys_principal_components() -> None:
    torch.manual_seed(2)
    maps = torch.randn(30, 6, 3, 3) * torch.arange(1.0, 7.0)[:, None, None]
    rows = maps.movedim(1, -1).reshape(-1, 6).double().numpy()
    mean = rows.mean(axis=0)
    _, _, directions = np.linalg.svd(rows - mean, full_matrices=False)
    best = (rows - mean) @ directions[:2].T @ directions[:2] + mean
    found = project(1 / 3, maps)(maps).movedim(1, -1).reshape(-1, 6).double().numpy()
    np.testing.assert_allclose(found, best, rtol=1e-3, atol=1e-3)


def test_the_linear_code_has_the_bottlenecks_size_and_beats_pooling() -> None:
    torch.manual_seed(3)
    smooth = torch.nn.functional.interpolate(
        torch.randn(60, 16, 3, 3), size=(12, 12), mode="bilinear"
    )
    restored = LinearCode().fit(smooth)(smooth)
    # 16 channels: 2 * max(1, 16 // 8) = 4 numbers for each 4 x 4 patch: what is restored has that rank.
    patches = LinearCode._patches(restored, 4).flatten(0, 1)
    centred = patches - patches.mean(dim=0)
    assert torch.linalg.matrix_rank(centred.double(), rtol=1e-4) == 4
    error = (restored - smooth).square().mean()
    assert error < (smooth - smooth.mean()).square().mean()


def test_the_linear_code_is_exact_where_patches_have_its_rank() -> None:
    torch.manual_seed(4)
    basis = torch.randn(2, 8 * 16)
    rows = torch.randn(50, 9, 2) @ basis
    maps = torch.nn.functional.fold(rows.transpose(1, 2), (12, 12), 4, stride=4)
    torch.testing.assert_close(LinearCode().fit(maps)(maps), maps, rtol=1e-3, atol=1e-3)
