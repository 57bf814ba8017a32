"""Predictors: their values by an independent computation, and their registry."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from toys.bottleneck import toy_network, toy_photos

from isplit_plugin.errors import UnknownNameError
from isplit_plugin.evaluation import PREDICTORS, PredictorContext, register
from isplit_plugin.evaluation.predictors import get


@pytest.fixture(scope="module")
def context() -> PredictorContext:
    net = toy_network()
    points = tuple(net.split_point(name) for name in "012")
    return PredictorContext(net, points, toy_photos(10), np.arange(10), batch_size=4)


def test_cui_is_the_networks_importance(context: PredictorContext) -> None:
    x = context.photos.tensor(range(10))
    names = [point.name for point in context.net.split_points]
    columns = [names.index(point.name) for point in context.points]
    for name, classes in (("cui", None), ("cui-true", context.labels)):
        expected = context.net.importance(x, classes).values[:, columns]
        np.testing.assert_allclose(get(name)(context), expected, rtol=1e-4, atol=1e-8)


def test_distortion_predictors_by_an_independent_computation(context: PredictorContext) -> None:
    head, tail = context.net.bisect("1")
    labels = torch.from_numpy(context.labels)
    photos = torch.arange(10)
    with torch.inference_mode():
        x = context.photos.tensor(range(10))
        means = torch.nn.functional.avg_pool2d(head(x), 2, ceil_mode=True, count_include_pad=False)
        repeated = torch.nn.functional.interpolate(means, scale_factor=2, mode="nearest")
        p = context.net.model(x).softmax(1)
        q = tail(repeated[:, :, :15, :18]).softmax(1)
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    kl = -(p * (p / q).log()).sum(1)
    close(get("kl-pool2")(context)[:, 1], kl.numpy())
    drop = q[photos, labels].log() - p[photos, labels].log()
    close(get("drop-pool2")(context)[:, 1], drop.numpy())
    same = p.argmax(1) == q.argmax(1)
    assert get("agree-pool2")(context)[:, 1].tolist() == same.double().tolist()


def test_depth_with_another_predictor_is_a_sum_of_ranks(context: PredictorContext) -> None:
    kl = get("kl-pool2")(context).mean(axis=0)
    expected = kl.argsort().argsort() + np.arange(3) + 2  # ranks count from 1
    assert get("depth+kl-pool2")(context).tolist() == expected.tolist()


def test_a_predictor_is_a_function_and_a_name(context: PredictorContext) -> None:
    register("reversed", lambda context: -np.arange(len(context.points), dtype=float))
    try:
        assert get("reversed")(context).tolist() == [0, -1, -2]
    finally:
        PREDICTORS.pop("reversed")
    with pytest.raises(UnknownNameError, match="reversed"):
        get("reversed")
