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
from .request import OUTPUTS, SCORES, TailRequest, decode_request
from .response import TailResponse, decode_response, label, top_k
from .tensor import Tensor

__all__ = [
    "CODECS",
    "DEFAULT_MAX_BATCH",
    "HEADER",
    "IMAGE_CODECS",
    "OUTPUTS",
    "SCORES",
    "ActivationCodec",
    "InferRequest",
    "InferResponse",
    "RequestedOutput",
    "TailRequest",
    "TailResponse",
    "Tensor",
    "activation_layout",
    "codec_names",
    "decode_activation",
    "decode_request",
    "decode_response",
    "encode_activation",
    "encode_images",
    "find_header",
    "header_length",
    "http_headers",
    "label",
    "register",
    "top_k",
]
