"""Small networks whose split points, MACs and importance can be computed by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


class Hand(nn.Module):
    """x (N, 1, 2, 2) -> channels x and -x -> ReLU in place -> mean -> two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
            self.fc.weight.copy_(torch.tensor([[2.0, 4.0], [1.0, -1.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.relu(self.conv(x))).flatten(1))


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(self.relu(self.bn(self.conv1(x))))
        out += x
        return self.relu(out)


class Residual(nn.Module):
    """A stem, two residual blocks, dropout and a classifier.

    It has modules that are called twice, operations in place, and a module that does nothing in
    eval mode.
    """

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.layers = nn.Sequential(Block(channels), Block(channels))
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers(F.relu(self.stem(x), inplace=True))
        return self.fc(self.drop(x.mean((2, 3))))


class Branches(nn.Module):
    """A stem with three branches, inside which two or three tensors are live."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.left = nn.Conv2d(4, 2, 1)
        self.middle = nn.Conv2d(4, 3, 1)
        self.right = nn.Conv2d(4, 5, 1)
        self.fc = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        joined = torch.cat([self.left(x), self.middle(x), self.right(x)], 1)
        return self.fc(joined.amax((2, 3)))


class Attention(nn.Module):
    """A block of a vision transformer, on (N, T, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        heads = self.qkv(self.norm(x)).reshape(n, t, 3, 2, c // 2)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(1, 2).reshape(n, t, c))


class Transformer(nn.Module):
    """Patches (N, C, H, W) -> (N, C, T) -> (N, T, C), class token, two blocks, norm (T, N, C)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.blocks = nn.ModuleList([Attention(width), Attention(width)])
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x.transpose(0, 1))
        return self.fc(x[0])


class Recurrent(nn.Module):
    """One module called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = torch.tanh(self.cell(x))
        return self.fc(x)


def seeded(factory: Callable[..., nn.Module], *args: object, **kwargs: object) -> nn.Module:
    """A network in eval mode with seeded random weights.

    Batch norms get statistics that are not 0 and 1, and linear layers of zeros, such as the head of
    torchvision's vision transformer, get random weights: otherwise they would hide mistakes.
    """
    torch.manual_seed(0)
    model = factory(*args, **kwargs)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            mean = torch.randn(module.num_features, generator=generator) * 0.1
            variance = torch.rand(module.num_features, generator=generator) + 0.5
            module.get_buffer("running_mean").copy_(mean)
            module.get_buffer("running_var").copy_(variance)
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
    return model.eval()


def wire(activation: torch.Tensor) -> torch.Tensor:
    """The activation that a tail receives: a row-major copy."""
    return torch.from_numpy(activation.detach().contiguous().numpy().copy())
