"""What travels between device and server: tensors in the Open Inference Protocol v2, and activation codecs."""

from __future__ import annotations

from .activation import (
    DEFAULT_MAX_BATCH,
    activation_layout,
    calibrate,
    decode_activation,
    encode_activation,
    encode_images,
)
from .codec import Codec, EncodeOptions, Payload
from .codecs import (
    CODECS,
    IMAGE_CODECS,
    codec_names,
    describe,
    is_codec,
    register,
    unknown_codec,
)
from .entropy import WithZstd
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
    "Codec",
    "EncodeOptions",
    "InferRequest",
    "InferResponse",
    "Payload",
    "Ranges",
    "RequestedOutput",
    "TailRequest",
    "TailResponse",
    "Tensor",
    "WithZstd",
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
    "is_codec",
    "label",
    "load_json",
    "register",
    "top_k",
    "unknown_codec",
]
