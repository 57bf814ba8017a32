"""What travels between device and server: tensors in the Open Inference Protocol v2, and activation codecs."""

from __future__ import annotations

from .codecs import (
    CODECS,
    DEFAULT_MAX_BATCH,
    IMAGE_CODECS,
    ActivationCodec,
    activation_layout,
    codec_names,
    decode_activation,
    encode_activation,
    encode_images,
    register,
)
from .message import (
    HEADER,
    InferRequest,
    InferResponse,
    RequestedOutput,
    find_header,
    header_length,
    http_headers,
)
from .tensor import Tensor

__all__ = [
    "CODECS",
    "DEFAULT_MAX_BATCH",
    "HEADER",
    "IMAGE_CODECS",
    "ActivationCodec",
    "InferRequest",
    "InferResponse",
    "RequestedOutput",
    "Tensor",
    "activation_layout",
    "codec_names",
    "decode_activation",
    "encode_activation",
    "encode_images",
    "find_header",
    "header_length",
    "http_headers",
    "register",
]
