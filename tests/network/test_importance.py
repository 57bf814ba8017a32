"""Importance: by hand, against captum in float64, from a cut onwards, and side effects."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum._utils.gradient import compute_layer_gradients_and_eval
from captum.attr import LayerGradCam
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from toys.network import Hand, Residual, Transformer, seeded

from isplit_plugin.errors import DataError, SplitPointError, UnknownClassError
from isplit_plugin.network import CapturedNetwork, capture

HAND_INPUT = torch.tensor([[1.0, 2.0], [3.0, -4.0]]).reshape(1, 1, 2, 2)


@pytest.fixture(scope="module")
def residual() -> CapturedNetwork:
    return capture(seeded(Residual).double(), torch.randn(1, 3, 6, 6, dtype=torch.float64))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_by_hand() -> None:
    """Activations (1, 2, 3, 0) and (0, 0, 0, 4), means 1.5 and 1, scores 7 and 0.5.

    For class 0 the gradient is (2, 4) at the pool and (0.5, 1) at every position of the ReLU's
    output. At the convolution it is 0.5 at three positions of the first channel and 1 at one of the
    second, so alpha is (0.375, 0.25).
    """
    net = capture(Hand(), HAND_INPUT)
    importance = net.importance(HAND_INPUT)
    assert importance.split_points == ("conv", "relu", "pool", "flatten")
    assert importance.scores.tolist() == [[7.0, 0.5]]
    assert importance.target.tolist() == [0]
    assert importance.values.tolist() == [[0.375 / 4, 3.5 / 4, 3.5, 3.5]]
    importance = net.importance(HAND_INPUT, target=1)
    assert importance.target.tolist() == [1]
    assert importance.values.tolist() == [[0.75 / 4, 0.75 / 4, 0.25, 0.25]]
    assert importance.values.dtype == importance.scores.dtype == np.float32
    assert importance.target.dtype == np.int64


def modules_of(model: nn.Module, net: CapturedNetwork, x: torch.Tensor) -> dict[int, str]:
    """Column -> a module called once that returns this split point's tensor."""
    calls: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(lambda *_, path=path: calls.update([path]))
        for path, module in model.named_modules()
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    paths = {}
    for column, point in enumerate(net.split_points):
        once = [name for name in point.names if calls[name] == 1]
        if once:
            paths[column] = once[0]
    return paths


def without_inplace(model: nn.Module) -> nn.Module:
    """captum hooks module outputs: an operation in place would overwrite what it keeps."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010  mypy takes it for a tensor
    return model


def oracle(
    model: nn.Module, layer: nn.Module, x: torch.Tensor, target: torch.Tensor, axis: int
) -> torch.Tensor:
    """CUI of one layer by captum.

    captum's Grad-CAM takes axis 1 for the channels, and sums over them where CUI takes the mean.
    """
    if axis == 1:
        maps = LayerGradCam(model, layer).attribute(x, target=target, relu_attributions=False)
        _, (activation,) = compute_layer_gradients_and_eval(model, layer, x, target)
        return torch.relu(maps / activation.shape[1]).flatten(1).mean(1)
    (gradient,), (activation,) = compute_layer_gradients_and_eval(model, layer, x, target)
    gradient, activation = (
        gradient.movedim(axis, 1).flatten(2),
        activation.movedim(axis, 1).flatten(2),
    )
    return torch.relu((gradient.mean(2, keepdim=True) * activation).mean(1)).mean(1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (lambda: seeded(Residual), (3, 6, 6)),
    "transformer": (lambda: seeded(Transformer), (3, 8, 8)),
    "resnet18": (lambda: seeded(models.resnet18), (3, 64, 64)),
    "squeezenet1_1": (lambda: seeded(models.squeezenet1_1), (3, 48, 48)),
    "swin": (
        lambda: seeded(models.SwinTransformer, [4, 4], 16, [2, 2], [2, 4], [3, 3], num_classes=10),
        (3, 40, 40),
    ),
    "vit": (lambda: seeded(models.VisionTransformer, 32, 8, 2, 2, 16, 32), (3, 32, 32)),
    "convnext": (
        lambda: seeded(models.ConvNeXt, [CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 1)]),
        (3, 32, 32),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_to_captum_layer_by_layer(name: str) -> None:
    factory, shape = NETWORKS[name]
    model = factory().double()
    x = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    net = capture(model, x)
    target = torch.tensor([1, 3])
    importance = net.importance(x, target)
    plain = without_inplace(model)
    layers = modules_of(plain, net, x)
    assert len(layers) >= min(3, len(net.split_points))
    modules = dict(plain.named_modules())
    for column, path in layers.items():
        expected = (
            oracle(plain, modules[path], x, target, net.split_points[column].channel_axis)
            .detach()
            .numpy()
        )
        np.testing.assert_allclose(
            importance.values[:, column], expected, rtol=1e-9, atol=1e-15, err_msg=path
        )
    assert (importance.values > 0).any(axis=1).all()


def test_a_batch_is_its_items_one_by_one(residual: CapturedNetwork, images: torch.Tensor) -> None:
    together = residual.importance(images)
    for i in range(len(images)):
        alone = residual.importance(images[i : i + 1])
        np.testing.assert_allclose(alone.values[0], together.values[i], rtol=1e-12)
        assert alone.target[0] == together.target[i]


def test_the_predicted_class_is_the_default(
    residual: CapturedNetwork, images: torch.Tensor
) -> None:
    importance = residual.importance(images)
    with torch.no_grad():
        scores = residual.model(images).numpy()
    assert np.array_equal(importance.scores, scores)
    assert np.array_equal(importance.target, scores.argmax(1))
    assert np.array_equal(importance.values, residual.importance(images, importance.target).values)
    assert np.array_equal(
        importance.values, residual.importance(images, torch.from_numpy(importance.target)).values
    )
    assert np.array_equal(
        importance.values, residual.importance(images, importance.target.tolist()).values
    )


def test_from_a_cut_onwards(residual: CapturedNetwork, images: torch.Tensor) -> None:
    whole = residual.importance(images)
    for column, name in enumerate(whole.split_points):
        with torch.no_grad():
            activation = residual.bisect(name)[0](images)
        importance = residual.importance_from(name, activation)
        assert np.isnan(importance.values[:, :column]).all()
        assert np.array_equal(importance.values[:, column:], whole.values[:, column:])
        assert np.array_equal(importance.scores, whole.scores)
    assert np.array_equal(residual.importance_from("input", images).values, whole.values)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (5, UnknownClassError, "unknown class 5; the network has classes 0 to 4"),
        (-1, UnknownClassError, "unknown class -1"),
        ([0, 1, 2, 9], UnknownClassError, "unknown class 9"),
        ([0, 1], DataError, r"4 of them.* got int64 of shape \(2,\)"),
        (np.zeros(4), DataError, "got float64"),
    ],
)
def test_targets_that_make_no_sense(
    residual: CapturedNetwork,
    images: torch.Tensor,
    target: object,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        residual.importance(images, target)  # type: ignore[arg-type]


def test_inputs_that_do_not_fit(residual: CapturedNetwork, images: torch.Tensor) -> None:
    with pytest.raises(
        DataError,
        match=r"'input': expected torch.float64 of shape \(N, 3, 6, 6\), got torch.float32",
    ):
        residual.importance(images.float())
    with pytest.raises(DataError, match=r"got torch.float64 of shape \(4, 3, 6\)"):
        residual.importance(images[..., 0])
    with pytest.raises(DataError, match=r"'layers.0': expected .* \(N, 4, 6, 6\)"):
        residual.importance_from("layers.0", images)
    with pytest.raises(DataError, match="got ndarray"):
        residual.importance(images.numpy())  # type: ignore[arg-type]
    with pytest.raises(SplitPointError, match="nothing comes after"):
        residual.importance_from("output", images)


def test_importance_has_no_side_effects(residual: CapturedNetwork, images: torch.Tensor) -> None:
    x = images.clone()
    before = {name: p.clone() for name, p in residual.model.state_dict().items()}
    residual.importance(x)
    with pytest.raises(UnknownClassError):
        residual.importance(x, 99)
    assert torch.equal(x, images)
    assert not x.requires_grad
    assert x.grad is None
    assert all(p.grad is None and p.requires_grad for p in residual.model.parameters())
    assert all(torch.equal(p, before[name]) for name, p in residual.model.state_dict().items())
    assert torch.is_grad_enabled()
    assert all(not m._forward_hooks for m in residual.model.modules())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(
    residual: CapturedNetwork, images: torch.Tensor, mode: type
) -> None:
    whole = residual.importance(images)
    with mode():
        activation = residual.bisect("layers.0")[0](images)
        importance = residual.importance_from("layers.0", activation)
        assert np.array_equal(residual.importance(images.clone()).values, whole.values)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert np.array_equal(importance.values[:, 3:], whole.values[:, 3:])


def test_inference_goes_on_in_another_thread(
    residual: CapturedNetwork, images: torch.Tensor
) -> None:
    expected = residual.importance(images)
    stop = threading.Event()
    wrong: list[str] = []

    def serve() -> None:
        _, tail = residual.bisect("input")
        with torch.no_grad():
            while not stop.is_set():
                scores = tail(images)
                if scores.requires_grad or not np.array_equal(scores.numpy(), expected.scores):
                    wrong.append("scores")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        for _ in range(20):
            assert np.array_equal(residual.importance(images).values, expected.values)
    finally:
        stop.set()
        thread.join()
    assert not wrong


def test_a_network_without_split_points() -> None:
    net = capture(nn.Linear(3, 2), torch.randn(1, 3))
    importance = net.importance(torch.randn(4, 3))
    assert (net.split_points, importance.values.shape, importance.scores.shape) == (
        (),
        (4, 0),
        (4, 2),
    )


def test_an_empty_batch(residual: CapturedNetwork, images: torch.Tensor) -> None:
    importance = residual.importance(images[:0])
    assert (importance.values.shape, importance.target.shape, importance.scores.shape) == (
        (0, 7),
        (0,),
        (0, 5),
    )
