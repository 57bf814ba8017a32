"""Tail and importance give the same on every processor that a worker may get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toys.processors import PROCESSORS
from toys.serving import head_of, whole

from isplit_plugin.network import CapturedNetwork, on_device
from isplit_plugin.schema import INPUT, Manifest
from isplit_plugin.serving.tail.runner import TailRunner


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("point", [INPUT, "relu1", "relu2"])
def test_the_tail_answers_as_the_whole_network_on_the_cpu(
    model_dir: Path, manifest: Manifest, net: CapturedNetwork, processor: str, point: str
) -> None:
    torch.manual_seed(1)
    x = torch.randn(3, 3, 16, 16)
    runner = TailRunner(model_dir, manifest, torch.device(processor), max_batch=8)
    scores, tail_ms = runner.run(point, head_of(net, point, x))
    np.testing.assert_allclose(scores, whole(net, x), rtol=1e-4, atol=1e-5)
    assert scores.dtype == np.float32
    assert tail_ms > 0
    assert runner.tensor(point, head_of(net, point, x)).device.type == processor


@pytest.mark.parametrize("processor", PROCESSORS)
def test_importance_is_that_of_the_cpu(net: CapturedNetwork, processor: str) -> None:
    torch.manual_seed(2)
    values = torch.from_numpy(head_of(net, "relu1", torch.randn(3, 3, 16, 16)))
    here = on_device(net, processor)
    found = here.importance_from("relu1", values.to(processor))
    expected = net.importance_from("relu1", values)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(found.target, expected.target)
