"""Reading a request to a tail, and checking it against the served manifest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ..errors import (
    ImageError,
    NetworkMismatchError,
    UnknownSplitPointError,
    WireError,
    WireSizeError,
)
from ..photo_formats import WIRE_FORMATS, format_names, how_to_convert, photo_format
from ..schema import IMAGE_CODECS, INPUT, PHOTO_FILE, Cut, Manifest
from . import message
from .activation import DEFAULT_MAX_BATCH, activation_layout, check_batch, encode_images
from .codecs import unknown_codec
from .message import InferRequest
from .parameters import (
    MAX_MS,
    MAX_TEXT,
    MIN_HASH,
    P_CODEC,
    P_DEVICE,
    P_ENCODE_MS,
    P_EXIT,
    P_GRADIENT,
    P_GROUP,
    P_HEAD_MS,
    P_NETWORK,
    P_PROBE,
    P_QUEUE_MS,
    P_RTT_MS,
    P_SHAPE,
    P_SPLIT_POINT,
    P_TOP_K,
    P_UPLINK_MS,
    Scalar,
    read_flag,
    read_integer,
    read_number,
    read_text,
)
from .reader import Buffer
from .refined import read_refinement
from .request import (
    ACTIVATION,
    DEFAULT_GROUP,
    DEFAULT_TOP_K,
    GRADIENTS,
    MAX_TOP_K,
    OUTPUTS,
    SCORES,
    TailRequest,
)
from .tensor import BYTES, Tensor

MAX_GROUP: Final = 64
"""The longest name of a device group, in characters."""


def decode_request(
    body: Buffer | Mapping[str, Any],
    json_length: int | None,
    content_type: str | None,
    manifest: Manifest,
    *,
    max_batch: int = DEFAULT_MAX_BATCH,
) -> TailRequest:
    """Read a request and check it against the served manifest.

    A body is an OIP v2 message, binary or JSON, or a photo: without ``json_length``, a body that
    begins like a file of ``WIRE_FORMATS`` is a photo whatever its content type. The activation is
    not decoded yet; :meth:`TailRequest.activation` does that.

    Parameters:
        body: Any buffer, or the object of a JSON body that the server has parsed.
        json_length: The result of :func:`header_length`.
        content_type: The HTTP header as sent.
        manifest: The manifest of the served model.
        max_batch: The largest batch that is accepted.

    Raises:
        WireError: The body breaks the format. WireSizeError: a limit is exceeded.
        UnknownSplitPointError: The split point is not known, or not deployed.
        UnknownCodecError: The tail does not accept the codec, or the two qualities of a refining
            cut.
        NetworkMismatchError: The head belongs to another network.
        ImageError: The body is a photo in a format that does not travel.
    """
    if json_length is None and not isinstance(body, Mapping):
        photo = _read_photo(body, content_type)
        if photo is not None:
            return photo
    return _check(message.decode_infer_request(body, json_length), manifest, max_batch)


def _read_photo(body: Buffer, content_type: str | None) -> TailRequest | None:
    """The request of a body that is a photo; ``None`` for a body that may be JSON."""
    media_type = (content_type or "").split(";")[0].strip().lower()
    view = message.as_view(body)
    if not view:
        raise WireError("the body is empty; expected a tensor or a photo")
    kind = photo_format(bytes(view[:64]))
    if kind is not None and kind not in WIRE_FORMATS:
        raise ImageError(
            f"expected {format_names(WIRE_FORMATS)}, got {format_names([kind])}"
            f"{how_to_convert(kind)}",
            format=kind,
        )
    if media_type.startswith("image/") or kind is not None:
        return TailRequest(cut=Cut(INPUT, "file"), tensor=encode_images([view], "file"))
    if view[0] not in b" \t\r\n{":
        raise WireError(
            f"neither JSON nor {format_names(WIRE_FORMATS)} (content type {media_type[:40]!a}); "
            f"a binary tensor needs the header {message.HEADER}"
        )
    # JSON has no null bytes.
    if media_type == message.BINARY_TYPE and b"\0" in bytes(view[: message.MAX_HEADER_BYTES]):
        raise WireError(
            f"a binary body without the header {message.HEADER}, the length of its JSON"
        )
    return None


def _check(request: InferRequest, manifest: Manifest, max_batch: int) -> TailRequest:
    if len(request.inputs) != 1:
        raise WireError(f"expected one input tensor, got {len(request.inputs)}")
    tensor = request.inputs[0]
    parameters = request.parameters
    _check_network(parameters.get(P_NETWORK), manifest)
    split_point, shape = _read_split_point(parameters, tensor.name, manifest)
    tensor_name = INPUT if split_point == INPUT else ACTIVATION
    if tensor.name != tensor_name:
        raise WireError(
            f"at split point {split_point!r} the input tensor is named {tensor_name!r}, "
            f"got {tensor.name!r}"
        )
    coding = _read_image_codec(tensor, manifest, max_batch) if split_point == INPUT else None
    if coding is None:
        tensor = _with_shape(tensor, shape)
        coding = _read_codec(tensor, split_point, shape, manifest, max_batch)
    cut = Cut.of(split_point, coding)
    first = None
    if not cut.is_photo:
        cut, first = read_refinement(parameters, cut, manifest, activation_layout(tensor)[1][0])
    network = parameters.get(P_NETWORK)
    device_token = parameters.get(P_DEVICE)
    exit_answer = parameters.get(P_EXIT)
    return TailRequest(
        cut=cut,
        tensor=tensor,
        network_hash=None if network is None else manifest.network_hash,
        top_k=read_integer(parameters, P_TOP_K, DEFAULT_TOP_K, low=1, high=MAX_TOP_K),
        scores=any(output.name == SCORES for output in request.outputs),
        binary_outputs=_read_binary_outputs(request),
        head_ms=_read_milliseconds(parameters, P_HEAD_MS),
        encode_ms=_read_milliseconds(parameters, P_ENCODE_MS),
        uplink_ms=_read_milliseconds(parameters, P_UPLINK_MS),
        rtt_ms=_read_milliseconds(parameters, P_RTT_MS),
        queue_ms=_read_milliseconds(parameters, P_QUEUE_MS),
        group=_read_group(parameters),
        id=request.id,
        shape=() if cut.is_photo else shape,
        # Whatever the token is, it is no reason to refuse a prediction: it is verified elsewhere.
        device_token=None if device_token is None else str(device_token),
        probe=read_flag(parameters, P_PROBE, False),
        gradient=_read_gradient(parameters),
        # Nor is what an exit says: the statistics check it.
        exit_answer=None if exit_answer is None else str(exit_answer)[:MAX_TEXT],
        first=first,
    )


def _check_network(network: Scalar | None, manifest: Manifest) -> None:
    if network is None:
        return
    prefix = read_text(network, P_NETWORK)
    is_short = len(prefix) < min(MIN_HASH, len(manifest.network_hash))
    if is_short or not manifest.network_hash.startswith(prefix):
        raise NetworkMismatchError(
            f"the head belongs to network {network}, this tail to {manifest.network_hash}",
            head=network,
            tail=manifest.network_hash,
        )


def _read_split_point(
    parameters: Mapping[str, Scalar], tensor_name: str, manifest: Manifest
) -> tuple[str, tuple[int, ...]]:
    """The split point by its first name, and the shape there without the batch."""
    points = [manifest.split_point(name) for name in manifest.deployed]
    shapes = {INPUT: manifest.input_shape} | {point.name: point.shape for point in points}
    name = parameters.get(P_SPLIT_POINT)
    if name is None and tensor_name == INPUT:
        name = INPUT
    if name != INPUT and len(points) != 1:
        _check_complete(parameters, manifest, tuple(shapes))
    if name is None:
        name = points[0].name
    name = read_text(name, P_SPLIT_POINT)
    if name == INPUT:
        return INPUT, manifest.input_shape
    try:
        name = manifest.split_point(name).name
    except UnknownSplitPointError:
        raise UnknownSplitPointError.of(name, shapes) from None
    if name not in shapes:
        raise UnknownSplitPointError(
            f"split point {name!r} is not deployed; deployed: {', '.join(shapes)}",
            known=list(shapes),
        )
    return name, shapes[name]


def _check_complete(
    parameters: Mapping[str, Scalar], manifest: Manifest, names: tuple[str, ...]
) -> None:
    """Where several split points are deployed, a request names its split point and its network."""
    missing = [key for key in (P_SPLIT_POINT, P_NETWORK) if key not in parameters]
    if missing:
        raise WireError(
            f"{manifest.model!r} serves {len(manifest.deployed)} split points: the request "
            f"parameters lack {' and '.join(missing)}; split points: {', '.join(names)}",
            missing=missing,
        )


def _read_image_codec(tensor: Tensor, manifest: Manifest, max_batch: int) -> str | None:
    """The coding of image files; ``None`` for a tensor that holds none."""
    coding = tensor.parameters.get(P_CODEC)
    if tensor.datatype != BYTES or not isinstance(coding, str):
        return None
    codec = coding.partition("@")[0]
    if codec not in IMAGE_CODECS:
        return None
    # A client that states no quality is served: its photo says all that the tail needs.
    if coding != codec and coding not in manifest.photos:
        raise unknown_codec(coding, (*manifest.codecs, *manifest.photos, PHOTO_FILE))
    if len(tensor.shape) != 1:
        raise WireError(f"images are BYTES of shape [N], got {list(tensor.shape)}")
    if tensor.shape[0] > max_batch:
        raise WireSizeError(
            f"a batch of {tensor.shape[0]} images, at most {max_batch}", limit=max_batch
        )
    return coding


def _read_codec(
    tensor: Tensor, split_point: str, shape: tuple[int, ...], manifest: Manifest, max_batch: int
) -> str:
    """The coding of an activation, where manifest and split point accept the tensor."""
    codec, full_shape = activation_layout(tensor)
    accepted = manifest.codings(split_point)
    if codec not in accepted:
        photos = (*manifest.photos, PHOTO_FILE) if split_point == INPUT else ()
        at = split_point if codec in manifest.codecs else ""
        raise unknown_codec(codec, (*accepted, *photos), at=at)
    check_batch(full_shape, shape, max_batch, tensor.name)
    return codec


def _with_shape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A coded activation that states no shape holds one item of the split point's."""
    if tensor.datatype != BYTES or P_SHAPE in tensor.parameters:
        return tensor
    stated = ",".join(map(str, (1, *shape)))
    return replace(tensor, parameters={**tensor.parameters, P_SHAPE: stated})


def _read_binary_outputs(request: InferRequest) -> frozenset[str]:
    """The outputs that are wanted in binary. Raises WireError for an unknown output."""
    default = read_flag(request.parameters, "binary_data_output", False)
    flags = dict.fromkeys(OUTPUTS, default)
    for output in request.outputs:
        if output.name not in flags:
            raise WireError(f"unknown output {output.name!r}; known: {', '.join(OUTPUTS)}")
        flags[output.name] = read_flag(output.parameters, "binary_data", default)
    return frozenset(name for name, is_binary in flags.items() if is_binary)


def _read_group(parameters: Mapping[str, Scalar]) -> str:
    group = read_text(parameters.get(P_GROUP, DEFAULT_GROUP), P_GROUP, limit=MAX_GROUP)
    return group or DEFAULT_GROUP


def _read_gradient(parameters: Mapping[str, Scalar]) -> str:
    codec = parameters.get(P_GRADIENT, GRADIENTS[0])
    if codec not in GRADIENTS:
        raise WireError(f"{P_GRADIENT}: expected {' or '.join(GRADIENTS)}, got {str(codec)[:40]!a}")
    return str(codec)


def _read_milliseconds(parameters: Mapping[str, Scalar], key: str) -> float:
    return read_number(parameters, key, "milliseconds", high=MAX_MS, default=math.nan)
