"""A request to a tail: what the device writes, and what the server gets from it.

In a handler::

    length = header_length(headers)
    request = decode_request(body, length, find_header(headers, "Content-Type"), manifest)
    if request.is_image:
        images = request.images()          # N files
    else:
        activation = request.activation()  # (N, *request.shape) float32
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from ..errors import WireError
from ..schema import INPUT, Cut, FloatArray
from . import message
from .activation import activation_layout, decode_activation
from .message import InferRequest, RequestedOutput
from .parameters import (
    MIN_HASH,
    P_COARSE,
    P_DEVICE,
    P_ENCODE_MS,
    P_EXIT,
    P_FINE,
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
)
from .reader import Buffer
from .refined import FirstAnswer
from .tensor import BYTES, Tensor
from .transform.transform import Transform

ACTIVATION: Final = "activation"
"""The name of the input tensor; at split point `input` it is `input`."""
SCORES: Final = "scores"
"""The output with the raw scores of all classes."""
OUTPUTS: Final = ("top_class", "top_score", "top_probability", "top_label", SCORES)
"""The outputs of an answer. All but the scores are in every answer."""

DEFAULT_TOP_K: Final = 5
MAX_TOP_K: Final = 100
"""The largest number of classes in an answer."""
DEFAULT_GROUP: Final = "all"
GRADIENTS: Final = ("fp16", "fp32")
"""The codecs in which a probe's gradient may travel; the first is the default."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TailRequest:
    """One request to a tail.

    Attributes:
        cut: Split point, codec and quality. A refining cut for the first and the second request of a
            photo.
        tensor: N items, coded.
        network_hash: The head's; ``None`` from a stock client.
        top_k: The number of classes to answer.
        scores: Whether the raw scores are asked for as well.
        binary_outputs: The outputs that are wanted in binary.
        head_ms: How long the head took on the device; NaN: not reported.
        encode_ms: How long the codec took on the device; NaN: not reported.
        uplink_ms: How long the device expects the bytes to take on its uplink, without the round
            trip; NaN: not reported.
        rtt_ms: The round trip of the device's link, without bytes and server; NaN: not reported.
        queue_ms: How long the device expects it to wait at the server; NaN: not reported.
        group: The device group.
        id: The client's id; the answer repeats it.
        shape: The activation's shape without the batch, where the request was decoded.
        device_token: The device token, not verified, of any length that a parameter may have.
        probe: Whether the gradient at the cut is asked for, instead of classes.
        gradient: The codec of that gradient.
        exit_answer: What an exit says of the photo, not checked; ``None`` without one.
        first: Of a second request, what it says of the first one; ``None`` for all others.
    """

    cut: Cut
    tensor: Tensor
    network_hash: str | None = None
    top_k: int = DEFAULT_TOP_K
    scores: bool = False
    binary_outputs: frozenset[str] = frozenset()
    head_ms: float = math.nan
    encode_ms: float = math.nan
    uplink_ms: float = math.nan
    rtt_ms: float = math.nan
    queue_ms: float = math.nan
    group: str = DEFAULT_GROUP
    id: str = ""
    shape: tuple[int, ...] = ()
    device_token: str | None = None
    probe: bool = False
    gradient: str = GRADIENTS[0]
    exit_answer: str | None = None
    first: FirstAnswer | None = None

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
        return self.cut.is_photo

    @property
    def batch(self) -> int:
        """N, the number of items."""
        return self.tensor.shape[0] if self.is_image else activation_layout(self.tensor)[1][0]

    def activation(self, transform: Transform | None = None) -> FloatArray:
        """The decoded activation (N, *shape), float32.

        The batch was bounded when the request was decoded. ``transform``: of the split point, for
        the codec ``dct``. Raises WireError.
        """
        if self.is_image:
            raise WireError(f"codec {self.codec!r} carries image files, not an activation")
        return decode_activation(
            self.tensor, shape=self.shape, max_batch=self.batch, transform=transform
        )

    def images(self) -> tuple[Buffer, ...]:
        """The N image files: of codec "file" as they are, of the others cropped on the device.

        Raises WireError where the request carries an activation.
        """
        if not self.is_image:
            raise WireError(f"codec {self.codec!r} carries an activation, not image files")
        return self.tensor.items

    def encode(self, *, binary: bool = True) -> tuple[bytes, int | None]:
        """The body, and the length of its JSON for :func:`http_headers`. Raises WireError."""
        parameters = self._parameters()
        outputs: list[RequestedOutput] = []
        if self.binary_outputs >= set(OUTPUTS):
            parameters["binary_data_output"] = True
            outputs = [RequestedOutput(SCORES)] if self.scores else []
        else:
            for name in OUTPUTS:
                is_binary = name in self.binary_outputs
                if self.scores if name == SCORES else is_binary:
                    flags: dict[str, Scalar] = {"binary_data": True} if is_binary else {}
                    outputs.append(RequestedOutput(name, flags))
        request = InferRequest((self._sent_tensor(),), tuple(outputs), self.id, parameters)
        return message.encode_infer_request(request, binary=binary)

    def _sent_tensor(self) -> Tensor:
        """The tensor without what the tail knows from the network: the shape of a single item."""
        tensor, known = self.tensor, self.tensor.parameters
        if self.network_hash is None or tensor.datatype != BYTES or P_SHAPE not in known:
            return tensor
        if not str(known[P_SHAPE]).startswith("1,"):
            return tensor
        others = {name: value for name, value in known.items() if name != P_SHAPE}
        return replace(tensor, parameters=others)

    def _parameters(self) -> dict[str, Scalar]:
        """The parameters of the request; those with their default value are left out."""
        parameters: dict[str, Scalar] = {P_SPLIT_POINT: self.split_point}
        if self.network_hash is not None:
            parameters[P_NETWORK] = self.network_hash[:MIN_HASH]
        if self.top_k != DEFAULT_TOP_K:
            parameters[P_TOP_K] = self.top_k
        times = {
            # At `input` there is no head.
            P_HEAD_MS: math.nan if self.split_point == INPUT else self.head_ms,
            P_ENCODE_MS: self.encode_ms,
            P_UPLINK_MS: self.uplink_ms,
            P_RTT_MS: self.rtt_ms,
            P_QUEUE_MS: self.queue_ms,
        }
        for key, milliseconds in times.items():
            if not math.isnan(milliseconds):
                parameters[key] = _three_digits(milliseconds)
        if self.group != DEFAULT_GROUP:
            parameters[P_GROUP] = self.group
        if self.device_token is not None:
            parameters[P_DEVICE] = self.device_token
        if self.exit_answer is not None:
            parameters[P_EXIT] = self.exit_answer
        if self.first is not None and self.cut.quality is not None:
            parameters[P_COARSE] = self.cut.quality
            parameters |= self.first.parameters()
        elif self.cut.fine is not None:
            parameters[P_FINE] = self.cut.fine
        if self.probe:
            parameters[P_PROBE] = True
            if self.gradient != GRADIENTS[0]:
                parameters[P_GRADIENT] = self.gradient
        return parameters


def request_bytes(cut: Cut, tensor: Tensor) -> int:
    """Bytes of the body of a request with this tensor, as :class:`SplitClient` sends it.

    It has the network hash and the device's times. A device token, a device group and raw scores
    add to it.
    """
    sample = TailRequest(
        cut=cut, tensor=tensor, network_hash="0" * 64, head_ms=12.3, encode_ms=1.23
    )
    body, _ = sample.encode()
    return len(body)


def _three_digits(milliseconds: float) -> float:
    """A time in three digits: it is a measurement, and its digits travel."""
    return float(f"{milliseconds:.3g}")
