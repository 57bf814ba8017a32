"""What travels between device and server: messages, tensors and coded activations.

- :func:`encode_activation`, :func:`decode_activation` and the codecs (:mod:`.codecs`); the
  interface of a codec is :class:`Codec`.
- :class:`TailRequest`, :func:`decode_request`, :class:`TailResponse`, :func:`decode_response`: one
  request to a tail and its answer.
- :mod:`.message`: requests and responses of the Open Inference Protocol v2 in general.

Everything that is decoded is hostile: the readers raise :class:`~isplit_plugin.errors.WireError`.
"""

from __future__ import annotations

from .activation import (
    DEFAULT_MAX_BATCH,
    activation_layout,
    calibrate,
    decode_activation,
    encode_activation,
    encode_images,
)
from .answer_bounds import MAX_LABEL, AnswerBounds
from .checking import decode_request
from .codec import Codec, EncodeOptions, Payload
from .codecs import (
    CODECS,
    codec_names,
    codings,
    describe,
    find_coding,
    is_codec,
    is_plain,
    needs_transform,
    register,
    unknown_codec,
)
from .entropy import WithZstd
from .message import (
    HEADER,
    InferRequest,
    InferResponse,
    RequestedOutput,
    decode_infer_request,
    decode_infer_response,
    encode_infer_request,
    encode_infer_response,
    find_header,
    header_length,
    http_headers,
    load_json,
)
from .parameters import P_DEVICE, P_NETWORK, P_SPLIT_POINT, P_TAIL_MS, Scalar, read_text
from .quantize import Ranges
from .reader import Buffer
from .refined import FirstAnswer
from .request import GRADIENTS, MAX_TOP_K, OUTPUTS, SCORES, TailRequest, request_bytes
from .response import TailResponse, decode_response, label, margins_of, top_k
from .stamps import SERVER_TIME, read_server_time, write_server_time
from .tensor import Tensor
from .transform.coefficients import ALPHABET, bucket_bounds, symbols_of
from .transform.grid import Grid
from .transform.rans import PRECISION
from .transform.transform import CLASSES_PER_OCTAVE, QUALITIES, ROUNDING, Transform, ideal_bits
from .transform.transform_file import (
    check_transform,
    load_transforms,
    pack_transforms,
    save_transforms,
    transform_sha256,
    unpack_transforms,
)

__all__ = [
    "ALPHABET",
    "CLASSES_PER_OCTAVE",
    "CODECS",
    "DEFAULT_MAX_BATCH",
    "GRADIENTS",
    "HEADER",
    "MAX_LABEL",
    "MAX_TOP_K",
    "OUTPUTS",
    "PRECISION",
    "P_DEVICE",
    "P_NETWORK",
    "P_SPLIT_POINT",
    "P_TAIL_MS",
    "QUALITIES",
    "ROUNDING",
    "SCORES",
    "SERVER_TIME",
    "AnswerBounds",
    "Buffer",
    "Codec",
    "EncodeOptions",
    "FirstAnswer",
    "Grid",
    "InferRequest",
    "InferResponse",
    "Payload",
    "Ranges",
    "RequestedOutput",
    "Scalar",
    "TailRequest",
    "TailResponse",
    "Tensor",
    "Transform",
    "WithZstd",
    "activation_layout",
    "bucket_bounds",
    "calibrate",
    "check_transform",
    "codec_names",
    "codings",
    "decode_activation",
    "decode_infer_request",
    "decode_infer_response",
    "decode_request",
    "decode_response",
    "describe",
    "encode_activation",
    "encode_images",
    "encode_infer_request",
    "encode_infer_response",
    "find_coding",
    "find_header",
    "header_length",
    "http_headers",
    "ideal_bits",
    "is_codec",
    "is_plain",
    "label",
    "load_json",
    "load_transforms",
    "margins_of",
    "needs_transform",
    "pack_transforms",
    "read_server_time",
    "read_text",
    "register",
    "request_bytes",
    "save_transforms",
    "symbols_of",
    "top_k",
    "transform_sha256",
    "unknown_codec",
    "unpack_transforms",
    "write_server_time",
]
