"""The closed-form start of an autoencoder: the best linear code, instead of noise.

In the metric of the gradients equal errors do equal harm to the answer, so the components with the
largest variance there are those to keep (see :mod:`isplit_plugin.network.transforms`). A layer with
stride 2 turns each component into four, the Haar wavelets of 2 x 2 positions (Haar, *Mathematische
Annalen* 1910), and keeps those of the largest variance. Each takes two channels, one for each sign,
because a ReLU follows. The decoder mirrors that. Training then begins where transform coding ends.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..network import BasisFamily, PointStatistics
from ..schema import SplitPoint
from .autoencoder import Autoencoder
from .features import Features
from .grid import Grid

__all__ = ["start_from_closed_form"]

_PHOTOS: Final = 256
_BYTES: Final = 256 * 1024 * 1024
_BATCH: Final = 32
_NOISE: Final = 0.02
"""How much of the random start is left: channels that are not used can then learn."""


def start_from_closed_form(
    autoencoder: Autoencoder, point: SplitPoint, features: Features, tail: nn.Module, *, seed: int
) -> bool:
    """Give an autoencoder the weights of the closed form, from at most 256 photos.

    Returns whether it did: layers with a single channel, which cannot hold both signs, keep their
    random start.
    """
    convolutions = [m for m in autoencoder.encoder.layers if isinstance(m, nn.Conv2d)]
    if min(convolution.out_channels for convolution in convolutions) < 2:
        return False
    activations, gradients = _sample(autoencoder, features, tail, seed)
    grid = Grid.of(point)
    with torch.no_grad():
        maps, prefix = grid.split(activations)
        basis = _Basis(maps, grid.split(gradients)[0])
        _set_convolutions(autoencoder, basis, maps)
        if prefix is not None:
            _set_prefix(autoencoder, basis, prefix)
        _set_norms(autoencoder, activations)
    return True


class _Basis:
    """Encoder (K, C), decoder (C, K), both of the gradient metric, and the mean (C,)."""

    def __init__(self, maps: Tensor, gradients: Tensor) -> None:
        values = maps.flatten(2)
        self.mean = values.mean(dim=(0, 2))
        statistics = PointStatistics.about(self.mean[None].double().cpu())
        unit = gradients.abs().max().clamp_min(1e-30)
        statistics.add(values, (gradients / unit).flatten(2), 0)
        closed = BasisFamily(statistics.covariance(), statistics.metric()).basis(1.0)
        self.encoder = torch.from_numpy(closed.encoder).to(maps)
        self.decoder = torch.from_numpy(closed.decoder).to(maps)


def _sample(
    autoencoder: Autoencoder, features: Features, tail: nn.Module, seed: int
) -> tuple[Tensor, Tensor]:
    """Activations and gradients (M, ...) of the log probability of a class drawn from the answer."""
    device = next(autoencoder.parameters()).device
    item_bytes = 4 * features.batch(torch.tensor([0]), device).numel()
    count = min(len(features), max(min(_PHOTOS, _BYTES // item_bytes), 8))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(features), generator=generator)[:count]
    activations, gradients = [], []
    for indices in torch.split(chosen, _BATCH):
        with torch.inference_mode(False), torch.enable_grad():
            activation = features.batch(indices, device).clone().requires_grad_()
            answers = torch.log_softmax(tail(activation).float(), dim=1)
            probabilities = answers.detach().exp().cpu().nan_to_num(nan=1.0)
            drawn = torch.multinomial(probabilities, 1, generator=generator).to(device)
            (gradient,) = torch.autograd.grad(answers.gather(1, drawn).sum(), activation)
        activations.append(activation.detach())
        gradients.append(gradient.nan_to_num())
    return torch.cat(activations), torch.cat(gradients)


def _set_convolutions(autoencoder: Autoencoder, basis: _Basis, maps: Tensor) -> None:
    encoders = [m for m in autoencoder.encoder.layers if isinstance(m, nn.Conv2d)]
    decoders = [m for m in autoencoder.decoder.layers if isinstance(m, nn.ConvTranspose2d)]
    signals = torch.einsum("kc,nchw->nkhw", basis.encoder, maps - basis.mean[:, None, None])
    for layer, (encoder, decoder) in enumerate(zip(encoders, reversed(decoders), strict=True)):
        stride = encoder.stride[0]
        patterns = _patterns(stride).to(signals)
        candidates = F.conv2d(
            signals.flatten(0, 1)[:, None], patterns[:, None], stride=stride, padding=1
        )
        # (N K, Q, h, w) -> (N, K Q, h, w)
        candidates = candidates.reshape(len(signals), -1, *candidates.shape[2:])
        power = candidates.square().mean(dim=(0, 2, 3))
        kept = min(encoder.out_channels // 2, len(power))
        chosen = power.topk(kept).indices
        components, kinds = chosen // len(patterns), chosen % len(patterns)
        kernels = patterns[kinds][:, None]
        if layer == 0:
            into = basis.encoder[components][:, :, None, None] * kernels
            out = basis.decoder.T[components][:, :, None, None] * kernels
            bias = -(basis.encoder @ basis.mean)[components] * kernels.sum(dim=(1, 2, 3))
        else:
            into = _signed_inputs(components, kernels, encoder.in_channels)
            out, bias = into, torch.zeros(kept, device=signals.device)
        for module in (encoder, decoder):
            module.weight.mul_(_NOISE)
            assert module.bias is not None  # noqa: S101  they are made with one
            module.bias.zero_()
        for sign, start in ((1, 0), (-1, 1)):
            channels = slice(start, 2 * kept, 2)
            encoder.weight[channels] += sign * into
            decoder.weight[channels] += sign * out
            assert encoder.bias is not None  # noqa: S101
            encoder.bias[channels] = sign * bias
        if layer == 0:
            assert decoder.bias is not None  # noqa: S101
            decoder.bias.copy_(basis.mean)
        signals = candidates[:, chosen]


def _patterns(stride: int) -> Tensor:
    """(Q, 3, 3): what a 3 x 3 kernel takes of its positions. With stride 2 it takes the lower
    right 2 x 2, which tile the map.
    """
    if stride == 1:
        return F.pad(torch.ones(1, 1, 1), (1, 1, 1, 1))
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    haar = torch.einsum("ai,bj->abij", pair, pair).flatten(0, 1)
    return F.pad(haar, (1, 0, 1, 0))


def _signed_inputs(components: Tensor, kernels: Tensor, channels: int) -> Tensor:
    """(K, channels, 3, 3): kernels on components that come as two channels, one for each sign."""
    weights = kernels.new_zeros(len(components), channels, 3, 3)
    rows = torch.arange(len(components), device=components.device)
    weights[rows, 2 * components] = kernels[:, 0]
    weights[rows, 2 * components + 1] = -kernels[:, 0]
    return weights


def _set_prefix(autoencoder: Autoencoder, basis: _Basis, prefix: Tensor) -> None:
    encoder, decoder = autoencoder.encoder.prefix, autoencoder.decoder.prefix
    assert encoder is not None  # noqa: S101  as there are prefix tokens
    assert decoder is not None  # noqa: S101
    mean = prefix.mean(dim=(0, 1))
    kept = min(encoder.out_features // 2, len(basis.encoder))
    for module in (encoder, decoder):
        module.weight.mul_(_NOISE)
        module.bias.zero_()
    for sign, start in ((1, 0), (-1, 1)):
        channels = slice(start, 2 * kept, 2)
        encoder.weight[channels] += sign * basis.encoder[:kept]
        encoder.bias[channels] = -sign * (basis.encoder[:kept] @ mean)
        decoder.weight[:, channels] += sign * basis.decoder[:, :kept]
    decoder.bias.copy_(mean)


def _set_norms(autoencoder: Autoencoder, activations: Tensor) -> None:
    """Let every batch norm begin as the identity on these activations."""

    def be_identity(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        (values,) = inputs
        mean, variance = values.mean(dim=(0, 2, 3)), values.var(dim=(0, 2, 3), correction=0)
        assert norm.running_mean is not None  # noqa: S101  they track statistics
        assert norm.running_var is not None  # noqa: S101
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean)

    norms = [m for m in autoencoder.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(be_identity) for norm in norms]
    was_training = autoencoder.training
    autoencoder.eval()
    autoencoder(activations)
    autoencoder.train(was_training)
    for hook in hooks:
        hook.remove()
