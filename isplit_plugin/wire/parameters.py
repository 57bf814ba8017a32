"""Parameters: the named scalars of requests, answers and tensors.

They come from the network. Every reader here raises :class:`WireError`, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from ..errors import WireError

Scalar = str | int | float | bool
"""The value of a parameter."""

MAX_TEXT: Final = 128
"""The longest name, id and other short text, in characters."""
MAX_PARAMETERS: Final = 64
"""The largest number of parameters in one place."""
MAX_PARAMETER: Final = 32 * 1024
"""The longest string value, in characters: a batch writes its scales as one string."""
MAX_MS: Final = 3_600_000.0
"""The longest time that a device or an answer may report: an hour."""

P_CODEC: Final = "isplit_codec"
"""Of a tensor: the coding, a codec's name and its quality where it has several: ``dct@3``."""
P_SHAPE: Final = "isplit_shape"
"""Of a tensor: the activation's shape with the batch, such as ``1,512,28,28``. Without it, the tensor
holds one item of the split point's shape."""
P_SPLIT_POINT: Final = "isplit_split_point"
"""The split point."""
P_NETWORK: Final = "isplit_network"
"""The network hash. Of a request: at least its first 16 digits."""
MIN_HASH: Final = 16
"""The fewest digits of a network hash that a request may have: enough to tell networks apart."""
P_TOP_K: Final = "isplit_top_k"
"""Of a request: the number of classes to answer."""
P_HEAD_MS: Final = "isplit_head_ms"
"""Of a request: how long the head took."""
P_ENCODE_MS: Final = "isplit_encode_ms"
"""Of a request: how long the codec took."""
P_UPLINK_MS: Final = "isplit_uplink_ms"
"""Of a request: how long the device expects the body's bytes to take on its uplink."""
P_RTT_MS: Final = "isplit_rtt_ms"
"""Of a request: the round trip of the device's link, without bytes and without the server."""
P_GROUP: Final = "isplit_group"
"""Of a request: the device group."""
P_DEVICE: Final = "isplit_device"
"""Of a request: the device token. Of an answer: whether the token is valid."""
P_PROBE: Final = "isplit_probe"
"""Of a request: answer a gradient and a ticket instead of classes."""
P_GRADIENT: Final = "isplit_gradient"
"""Of a request: the codec of the gradient."""
P_EXIT: Final = "isplit_exit"
"""Of a request: what an exit says of this photo, ``<version>:<class>:<bin>``, and ``:audit`` behind
it where the device has answered by it already. Of an answer: the release that is in force."""
P_FINE: Final = "isplit_fine"
"""Of a first request: the quality of the second one that would follow."""
P_COARSE: Final = "isplit_coarse"
"""Of a second request: the quality of the first one."""
P_FIRST_BYTES: Final = "isplit_first_bytes"
"""Of a second request: the bytes of the first one's body, the share of these items."""
P_FIRST_CLASSES: Final = "isplit_first_classes"
"""Of a second request: the classes that the first answer gave these items."""
P_REFINE: Final = "isplit_refine"
"""Of a first answer: the numbers of the items that are to be sent again."""
P_AUDIT: Final = "isplit_audit"
"""Of a first answer: those of them that are sure. Of a second request: the same, by its items."""
P_REQUEST_ID: Final = "isplit_request_id"
"""Of an answer: the request id."""
P_DECODE_MS: Final = "isplit_decode_ms"
"""Of an answer: how long decoding the activation took."""
P_TAIL_MS: Final = "isplit_tail_ms"
"""Of an answer: how long the tail took."""
P_QUEUE_MS: Final = "isplit_queue_ms"
"""Of an answer: how long the request waited in the worker for others of its batch. Of a request: how
long the device expects it to wait at the server."""
P_PROBE_RATE: Final = "isplit_probe_rate"
"""Of an answer: the share of its requests that the device should follow with a probe."""


def read_text(value: object, subject: str, *, limit: int = MAX_TEXT) -> str:
    """A printable string of at most ``limit`` characters.

    Control characters and lone surrogates are refused: they must not get into logs.
    """
    if not isinstance(value, str):
        raise WireError(f"{subject}: expected a string, got {type_name(value)}")
    if len(value) > limit:
        raise WireError(f"{subject}: {len(value)} characters, at most {limit}")
    if not value.isprintable():
        raise WireError(f"{subject}: {value[:80]!a} holds characters that cannot be printed")
    return value


def read_parameters(raw: object, subject: str) -> dict[str, Scalar]:
    """A ``parameters`` object: a bounded number of finite scalars."""
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise WireError(f"{subject}: expected an object of parameters, got {type_name(raw)}")
    if len(raw) > MAX_PARAMETERS:
        raise WireError(f"{subject}: {len(raw)} parameters, at most {MAX_PARAMETERS}")
    parameters: dict[str, Scalar] = {}
    for key, value in raw.items():
        name = read_text(key, f"{subject}: parameter name")
        parameters[name] = _read_scalar(value, f"{subject}: parameter {name!r}")
    return parameters


def read_flag(parameters: Mapping[str, Scalar], key: str, default: bool) -> bool:
    """A parameter that is true or false."""
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise WireError(f"{key}: expected true or false, got {value!a}")
    return value


def read_integer(
    parameters: Mapping[str, Scalar], key: str, default: int, *, low: int, high: int
) -> int:
    """A parameter that is an integer within [low, high]."""
    value = parameters.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise WireError(f"{key}: expected an integer from {low} to {high}, got {value!a}")
    return value


def read_number(
    parameters: Mapping[str, Scalar],
    key: str,
    what: str,
    *,
    high: float,
    default: float | None = None,
) -> float:
    """A parameter that is a finite number within [0, high].

    Parameters:
        what: What the number is, for the error message.
        default: The result where the parameter is missing. Without one it must be there.
    """
    value = parameters.get(key)
    if value is None and default is not None:
        return default
    if value is None or isinstance(value, bool | str):
        raise WireError(f"{key}: expected {what}, got {str(value)[:40]!a}")
    if not (math.isfinite(value) and 0 <= value <= high):
        limit = f" from 0 to {high:g}" if math.isfinite(high) else ""
        raise WireError(f"{key}: expected {what}{limit}, got {str(value)[:40]!a}")
    return float(value)


def type_name(value: object) -> str:
    """The type of a value, for error messages."""
    return "nothing" if value is None else type(value).__name__


def _read_scalar(value: object, subject: str) -> Scalar:
    if isinstance(value, str):
        return read_text(value, subject, limit=MAX_PARAMETER)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise WireError(f"{subject} is an integer of more than 64 bits")
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise WireError(f"{subject} must be a finite scalar, got {type_name(value)}")
