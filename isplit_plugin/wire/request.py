"""A request to a tail, typed: what the device writes and the server reads, checked against the served manifest.

In a handler::

    request = decode_request(data["body"], header_length(headers), find_header(headers, "Content-Type"), manifest)
    if request.is_image:
        images = request.images()          # N files: "file" needs the full preprocessing, "jpeg" is already cropped
    else:
        activation = request.activation()  # (N, *request.shape) float32, for the tail of request.split_point
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import NetworkMismatchError, UnknownSplitPointError, WireError, WireSizeError
from ..schema import INPUT, Cut, FloatArray, Manifest
from . import message
from .activation import (
    DEFAULT_MAX_BATCH,
    P_CODEC,
    activation_layout,
    check_batch,
    decode_activation,
    encode_images,
)
from .codecs import IMAGE_CODECS, unknown_codec
from .message import InferRequest, RequestedOutput
from .tensor import BYTES, Buffer, Scalar, Tensor, text

ACTIVATION: Final = "activation"
"""Name of the input tensor at a split point; at split point `input` it is `input`."""
TOP_OUTPUTS: Final = ("top_class", "top_score", "top_probability", "top_label")
SCORES: Final = "scores"
"""The output that holds all raw scores; it is answered only if it is asked for."""
OUTPUTS: Final = (*TOP_OUTPUTS, SCORES)
"""The outputs of an answer to a prediction."""

DEFAULT_TOP_K: Final = 5
MAX_TOP_K: Final = 100
"""The most classes that a request can ask for."""
MAX_SPLIT_POINT: Final = 128
MAX_HASH: Final = 128
MAX_GROUP: Final = 64
MAX_MS: Final = 3_600_000.0
"""Longest time a device may report: an hour."""

P_SPLIT_POINT: Final = "isplit_split_point"
P_NETWORK: Final = "isplit_network"
P_TOP_K: Final = "isplit_top_k"
P_HEAD_MS: Final = "isplit_head_ms"
P_ENCODE_MS: Final = "isplit_encode_ms"
P_GROUP: Final = "isplit_group"
P_DEVICE: Final = "isplit_device"
P_PROBE: Final = "isplit_probe"
P_GRADIENT: Final = "isplit_gradient"

GRADIENTS: Final = ("fp16", "fp32")
"""How a probe's gradient may travel: fp16 unless asked otherwise."""

_MAGIC: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TailRequest:
    """One request to a tail; ``tensor`` holds N items, coded.

    ``network_hash``: ``None`` from a stock client. ``scores``: raw scores are asked for besides the top k.
    ``binary_outputs``: the outputs wanted in binary. ``head_ms``, ``encode_ms``: the device's, NaN = not reported.
    ``id``: the client's, echoed in the answer. ``shape``: without batch, for activations that came through
    :func:`decode_request`. ``device_token``: who the device says it is, unverified and of any length that a parameter
    may have; ``None`` where it says nothing. ``probe``: the gradient at the cut is asked for, coded as ``gradient``,
    instead of classes.
    """

    cut: Cut
    tensor: Tensor
    network_hash: str | None = None
    top_k: int = DEFAULT_TOP_K
    scores: bool = False
    binary_outputs: frozenset[str] = frozenset()
    head_ms: float = math.nan
    encode_ms: float = math.nan
    group: str = "all"
    id: str = ""
    shape: tuple[int, ...] = ()
    device_token: str | None = None
    probe: bool = False
    gradient: str = "fp16"

    @property
    def split_point(self) -> str:
        """The cut's split point."""
        return self.cut.split_point

    @property
    def codec(self) -> str:
        """The cut's codec."""
        return self.cut.codec

    @property
    def is_image(self) -> bool:
        """Whether the items are image files rather than numbers."""
        return self.codec in IMAGE_CODECS

    @property
    def batch(self) -> int:
        """N, the number of items."""
        return self.tensor.shape[0] if self.is_image else activation_layout(self.tensor)[1][0]

    def activation(self) -> FloatArray:
        """The decoded activation (N, *shape), float32; the batch was bounded on the way in. Raises WireError."""
        if self.is_image:
            raise WireError(f"codec {self.codec!r} carries image files, not an activation")
        return decode_activation(self.tensor, shape=self.shape, max_batch=self.batch)

    def images(self) -> tuple[Buffer, ...]:
        """The N image files. Raises WireError where the request carries an activation."""
        if not self.is_image:
            raise WireError(f"codec {self.codec!r} carries an activation, not image files")
        return self.tensor.items

    def encode(self, *, binary: bool = True) -> tuple[bytes, int | None]:
        """The body and the length of its JSON; :func:`message.http_headers` gives the headers. Raises WireError."""
        parameters: dict[str, Scalar] = {P_SPLIT_POINT: self.split_point}
        if self.network_hash is not None:
            parameters[P_NETWORK] = self.network_hash
        if self.top_k != DEFAULT_TOP_K:
            parameters[P_TOP_K] = self.top_k
        for key, value in ((P_HEAD_MS, self.head_ms), (P_ENCODE_MS, self.encode_ms)):
            if not math.isnan(value):
                parameters[key] = round(value, 3)
        if self.group != "all":
            parameters[P_GROUP] = self.group
        if self.device_token is not None:
            parameters[P_DEVICE] = self.device_token
        if self.probe:
            parameters[P_PROBE] = True
            if self.gradient != GRADIENTS[0]:
                parameters[P_GRADIENT] = self.gradient
        all_binary = self.binary_outputs >= set(OUTPUTS)
        if all_binary:
            parameters["binary_data_output"] = True
        outputs = [
            RequestedOutput(
                name,
                {"binary_data": True} if name in self.binary_outputs and not all_binary else {},
            )
            for name in OUTPUTS
            if (self.scores if name == SCORES else name in self.binary_outputs and not all_binary)
        ]
        wanted = InferRequest((self.tensor,), tuple(outputs), self.id, parameters)
        return message.encode_request(wanted, binary=binary)


def decode_request(
    body: Buffer | Mapping[str, Any],
    json_length: int | None,
    content_type: str | None,
    manifest: Manifest,
    *,
    max_batch: int = DEFAULT_MAX_BATCH,
) -> TailRequest:
    """Read a request of any of the three forms and check it against the served network.

    Parameters: ``body``, any buffer, or the object of a JSON body that the server has parsed; ``json_length``, from
    :func:`message.header_length`; ``content_type``, as sent. Without a length in the headers, a body that begins like
    a JPEG or PNG file is a photo whatever its content type.

    The data are not decoded yet: :meth:`TailRequest.activation` does that. Raises WireError, UnknownSplitPointError
    (not known, or not deployed), UnknownCodecError (not accepted by this tail), NetworkMismatchError.
    """
    kind = (content_type or "").split(";")[0].strip().lower()
    if json_length is None and not isinstance(body, Mapping):
        try:
            view = memoryview(body).cast("B")
        except TypeError:
            what = (
                "a JSON object" if type(body).__name__ == "list" else "a contiguous body of bytes"
            )
            raise WireError(f"message: expected {what}, got {type(body).__name__}") from None
        if not view:
            raise WireError("the body is empty; expected a tensor or a photo")
        if kind.startswith("image/") or bytes(view[:8]).startswith(_MAGIC):
            return TailRequest(cut=Cut(INPUT, "file"), tensor=encode_images([view], "file"))
        if view[0] not in b" \t\r\n{":
            raise WireError(
                f"neither JSON nor a JPEG or PNG file (content type {kind[:40]!a}); "
                f"a binary tensor needs the header {message.HEADER}"
            )
        if (
            kind == message.BINARY_TYPE and b"\0" in view[: message.MAX_HEADER_BYTES].tobytes()
        ):  # JSON has none
            raise WireError(
                f"a binary body without the header {message.HEADER}, the length of its JSON"
            )
    return _check(message.decode_request(body, json_length), manifest, max_batch)


def _check(request: InferRequest, manifest: Manifest, max_batch: int) -> TailRequest:
    if len(request.inputs) != 1:
        raise WireError(f"expected one input tensor, got {len(request.inputs)}")
    tensor, parameters = request.inputs[0], request.parameters
    split_point, shape = _split_point(parameters, tensor, manifest)
    expected = INPUT if split_point == INPUT else ACTIVATION
    if tensor.name != expected:
        raise WireError(
            f"at split point {split_point!r} the input tensor is named {expected!r}, got {tensor.name!r}"
        )
    if (
        tensor.datatype == BYTES
        and split_point == INPUT
        and tensor.parameters.get(P_CODEC) in IMAGE_CODECS
    ):
        codec, shape = str(tensor.parameters[P_CODEC]), ()
        if len(tensor.shape) != 1:
            raise WireError(f"images are BYTES of shape [N], got {list(tensor.shape)}")
        if tensor.shape[0] > max_batch:
            raise WireSizeError(
                f"a batch of {tensor.shape[0]} images, at most {max_batch}", limit=max_batch
            )
    else:
        codec, whole = activation_layout(tensor)
        if codec not in manifest.codecs:
            accepted = (
                (*manifest.codecs, *IMAGE_CODECS) if split_point == INPUT else manifest.codecs
            )
            raise unknown_codec(codec, accepted)
        check_batch(whole, shape, max_batch, tensor.name)
    scores, binary = _outputs(request)
    network = parameters.get(P_NETWORK)
    return TailRequest(
        cut=Cut.of(split_point, codec),
        tensor=tensor,
        network_hash=None if network is None else str(network),
        top_k=_top_k(parameters),
        scores=scores,
        binary_outputs=binary,
        head_ms=_milliseconds(parameters, P_HEAD_MS),
        encode_ms=_milliseconds(parameters, P_ENCODE_MS),
        group=text(parameters.get(P_GROUP, "all"), P_GROUP, limit=MAX_GROUP) or "all",
        id=request.id,
        shape=shape,
        # Whatever it is, it is no reason to refuse a prediction: who verifies it says what is wrong with it.
        device_token=None if parameters.get(P_DEVICE) is None else str(parameters[P_DEVICE]),
        probe=_flag(parameters, P_PROBE, False),
        gradient=_gradient(parameters),
    )


def _split_point(
    parameters: Mapping[str, Scalar], tensor: Tensor, manifest: Manifest
) -> tuple[str, tuple[int, ...]]:
    """The deployed split point that the request is for, by its first name, and its shape without batch."""
    deployed = {
        manifest.split_point(name).name: manifest.split_point(name).shape
        for name in manifest.deployed
    }
    known = (INPUT, *deployed)
    named, network = parameters.get(P_SPLIT_POINT), parameters.get(P_NETWORK)
    if network is not None and text(network, P_NETWORK, limit=MAX_HASH) != manifest.network_hash:
        raise NetworkMismatchError(
            f"the head belongs to network {network}, this tail to {manifest.network_hash}",
            head=network,
            tail=manifest.network_hash,
        )
    if named is None and tensor.name == INPUT:
        named = INPUT
    if named != INPUT and len(deployed) != 1:
        missing = [
            key for key, value in ((P_SPLIT_POINT, named), (P_NETWORK, network)) if value is None
        ]
        if missing:
            raise WireError(
                f"{manifest.model!r} serves {len(deployed)} split points: the request parameters lack "
                f"{' and '.join(missing)}; split points: {', '.join(known)}",
                missing=missing,
            )
    if named is None:
        named = next(iter(deployed))
    name = text(named, P_SPLIT_POINT, limit=MAX_SPLIT_POINT)
    if name == INPUT:
        return INPUT, manifest.input_shape
    try:
        name = manifest.split_point(name).name
    except UnknownSplitPointError:
        raise UnknownSplitPointError.of(name, known) from None
    if name not in deployed:
        raise UnknownSplitPointError(
            f"split point {name!r} is not deployed; deployed: {', '.join(known)}", known=list(known)
        )
    return name, deployed[name]


def _outputs(request: InferRequest) -> tuple[bool, frozenset[str]]:
    """Whether scores are asked for, and the outputs wanted in binary. The top outputs are always in the answer."""
    default = _flag(request.parameters, "binary_data_output", False)
    flags = dict.fromkeys(OUTPUTS, default)
    for output in request.outputs:
        if output.name not in flags:
            raise WireError(f"unknown output {output.name!r}; known: {', '.join(OUTPUTS)}")
        flags[output.name] = _flag(output.parameters, "binary_data", default)
    asked = any(output.name == SCORES for output in request.outputs)
    return asked, frozenset(name for name, binary in flags.items() if binary)


def _flag(parameters: Mapping[str, Scalar], key: str, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise WireError(f"{key}: expected true or false, got {value!a}")
    return value


def _gradient(parameters: Mapping[str, Scalar]) -> str:
    value = parameters.get(P_GRADIENT, GRADIENTS[0])
    if value not in GRADIENTS:
        raise WireError(f"{P_GRADIENT}: expected {' or '.join(GRADIENTS)}, got {str(value)[:40]!a}")
    return str(value)


def _top_k(parameters: Mapping[str, Scalar]) -> int:
    value = parameters.get(P_TOP_K, DEFAULT_TOP_K)
    if type(value) is not int or not 1 <= value <= MAX_TOP_K:
        raise WireError(f"{P_TOP_K}: expected an integer from 1 to {MAX_TOP_K}, got {value!a}")
    return value


def _milliseconds(parameters: Mapping[str, Scalar], key: str) -> float:
    value = parameters.get(key)
    if value is None:
        return math.nan
    if isinstance(value, bool | str) or not 0 <= value <= MAX_MS:
        raise WireError(
            f"{key}: expected milliseconds from 0 to {MAX_MS:g}, got {str(value)[:40]!a}"
        )
    return float(value)
