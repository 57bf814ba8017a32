"""What travels between device and server: tensors in the Open Inference Protocol v2, and activation codecs."""

from __future__ import annotations

from .codecs import (
    CODECS,
    DEFAULT_MAX_BATCH,
    IMAGE_CODECS,
    activation_layout,
    calibrate,
    codec_names,
    decode_activation,
    describe,
    encode_activation,
    encode_images,
    register,
    unknown_codec,
)
from .message import (
    HEADER,
    InferRequest,
    InferResponse,
    RequestedOutput,
    find_header,
    header_length,
    http_headers,
    load_json,
)
from .plain import ActivationCodec
from .quantize import Ranges
from .request import MAX_TOP_K, OUTPUTS, SCORES, TailRequest, decode_request
from .response import TailResponse, decode_response, label, top_k
from .tensor import Tensor

__all__ = [
    "CODECS",
    "DEFAULT_MAX_BATCH",
    "HEADER",
    "IMAGE_CODECS",
    "MAX_TOP_K",
    "OUTPUTS",
    "SCORES",
    "ActivationCodec",
    "InferRequest",
    "InferResponse",
    "Ranges",
    "RequestedOutput",
    "TailRequest",
    "TailResponse",
    "Tensor",
    "activation_layout",
    "calibrate",
    "codec_names",
    "decode_activation",
    "decode_request",
    "decode_response",
    "describe",
    "encode_activation",
    "encode_images",
    "find_header",
    "header_length",
    "http_headers",
    "label",
    "load_json",
    "register",
    "top_k",
    "unknown_codec",
]
