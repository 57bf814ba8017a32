"""The CPU and, where there is one, a CUDA device, as parameters of a test."""

from __future__ import annotations

from typing import Final

import pytest
import torch

NEEDS_CUDA: Final = (
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="needs a CUDA device: run make test ARGS='-m cuda' on a machine that has one",
    ),
)
PROCESSORS: Final = ("cpu", pytest.param("cuda", marks=NEEDS_CUDA))
