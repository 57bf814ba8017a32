"""The messages of a probe, besides its request (:class:`TailRequest` with ``probe=True``).

The tail answers with an output tensor ``gradient`` (N = 1), d score / d activation at the cut, and
a ticket that the server has signed. The gradient is scaled by a power of two to the upper end of
fp16's range. The scaling is exact, and small gradients keep their digits.

The device's report then goes to the endpoint `isplit` as JSON::

    {"probe": {"ticket": "...", "values": [...], "network": "...", "class": 281,
               "device": "isplit1...."}}

``values`` holds one importance value for each point of the curve before the cut, in order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from ..errors import WireError
from ..schema import FloatArray
from ..wire import (
    GRADIENTS,
    P_DEVICE,
    P_NETWORK,
    P_SPLIT_POINT,
    P_TAIL_MS,
    Buffer,
    InferResponse,
    Scalar,
    decode_activation,
    decode_infer_response,
    encode_activation,
    encode_infer_response,
    read_text,
)

GRADIENT: Final = "gradient"
MAX_TICKET: Final = 16 * 1024
MAX_POINTS: Final = 4096
MAX_REPORT_DEVICE: Final = 512

_TICKET: Final = "isplit_ticket"
_CLASS: Final = "isplit_class"
_SCALE: Final = "isplit_gradient_scale"
_TOP: Final = 14
"""The gradient is scaled to magnitudes below 2^15. The largest number of fp16 is 65504."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ProbeResponse:
    """The tail's answer to a probe.

    Attributes:
        gradient: of the score of ``class_id``, float32, shape (1, *shape of the cut).
        codec: how the gradient travels, one of ``GRADIENTS``.
        device: as in a :class:`TailResponse`.
    """

    gradient: FloatArray
    class_id: int
    ticket: str
    split_point: str
    network_hash: str
    tail_ms: float = 0.0
    codec: str = GRADIENTS[0]
    device: str = ""
    model: str = ""
    version: str = ""
    id: str = ""

    def encode(self) -> tuple[bytes, int | None]:
        """The body and the length of its JSON. Raises WireError if the gradient is not finite."""
        largest = float(np.abs(self.gradient).max()) if self.gradient.size else 0.0
        scale = 1.0
        if math.isfinite(largest) and largest > 0:
            scale = 2.0 ** (_TOP - math.frexp(largest)[1])
            scale = min(max(scale, 2.0**-120), 2.0**120)
        parameters: dict[str, Scalar] = {
            P_SPLIT_POINT: self.split_point,
            P_NETWORK: self.network_hash,
            _CLASS: self.class_id,
            _TICKET: self.ticket,
            _SCALE: scale,
            P_TAIL_MS: round(self.tail_ms, 3),
        }
        if self.device:
            parameters[P_DEVICE] = self.device
        tensor = encode_activation(self.gradient * np.float32(scale), self.codec, GRADIENT)
        return encode_infer_response(
            InferResponse((tensor,), self.model, self.version, self.id, parameters)
        )


def decode_probe_response(
    body: Buffer, json_length: int | None, shape: tuple[int, ...]
) -> ProbeResponse:
    """Read the tail's answer to a probe. Raises WireError.

    ``shape`` is that of the activation at the cut, without the batch.
    """
    answer = decode_infer_response(body, json_length)
    if len(answer.outputs) != 1 or answer.outputs[0].name != GRADIENT:
        names = ", ".join(tensor.name for tensor in answer.outputs)
        raise WireError(f"expected only the output {GRADIENT!r}, got {names}")
    parameters = answer.parameters
    class_id = parameters.get(_CLASS)
    scale = parameters.get(_SCALE)
    tail_ms = parameters.get(P_TAIL_MS, 0.0)
    if type(class_id) is not int or class_id < 0:
        raise WireError(f"{_CLASS}: expected a class id, got {str(class_id)[:40]!a}")
    if isinstance(scale, bool | str) or scale is None or not 2.0**-121 < scale < 2.0**121:
        raise WireError(f"{_SCALE}: expected a power of two, got {str(scale)[:40]!a}")
    if isinstance(tail_ms, bool | str) or not tail_ms >= 0:
        raise WireError(f"{P_TAIL_MS}: expected milliseconds, got {str(tail_ms)[:40]!a}")
    gradient = decode_activation(answer.outputs[0], shape=shape, max_batch=1)
    return ProbeResponse(
        gradient=gradient / np.float32(scale),
        class_id=class_id,
        ticket=read_text(parameters.get(_TICKET), _TICKET, limit=MAX_TICKET),
        split_point=read_text(parameters.get(P_SPLIT_POINT), P_SPLIT_POINT),
        network_hash=read_text(parameters.get(P_NETWORK), P_NETWORK),
        tail_ms=float(tail_ms),
        device=read_text(parameters.get(P_DEVICE, ""), P_DEVICE),
        model=answer.model_name,
        version=answer.model_version,
        id=answer.id,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """A device's half of a curve.

    ``device_token`` is the token that the probe's request had, if any.
    """

    ticket: str
    values: tuple[float, ...]
    network_hash: str
    class_id: int
    device_token: str | None = None

    def encode(self) -> bytes:
        """The JSON body to post. Raises WireError if a value is not finite."""
        fields: dict[str, Any] = {
            "ticket": self.ticket,
            "values": list(self.values),
            "network": self.network_hash,
            "class": self.class_id,
        }
        if self.device_token is not None:
            fields["device"] = self.device_token
        try:
            return json.dumps({"probe": fields}, separators=(",", ":"), allow_nan=False).encode()
        except ValueError as error:
            raise WireError(
                "probe: values: expected finite numbers, got NaN or infinity"
            ) from error

    @classmethod
    def from_json(cls, raw: object) -> Self:
        """Read the object under ``probe``. Raises WireError. The range of values is not checked."""
        known = {"ticket", "values", "network", "class", "device"}
        if (
            not isinstance(raw, Mapping)
            or not {"ticket", "values"} <= raw.keys()
            or raw.keys() - known
        ):
            raise WireError(
                "probe: expected an object with ticket and values; "
                f"known: {', '.join(sorted(known))}"
            )
        values = raw["values"]
        class_id = raw.get("class")
        device = raw.get("device")
        if not isinstance(values, list) or len(values) > MAX_POINTS:
            raise WireError(f"probe: values: expected a list of at most {MAX_POINTS} numbers")
        if any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
            raise WireError("probe: values: expected numbers")
        if type(class_id) is not int:
            raise WireError(f"probe: class: expected a class id, got {type(class_id).__name__}")
        if device is not None:
            read_text(device, "probe: device", limit=MAX_REPORT_DEVICE)
        return cls(
            ticket=read_text(raw["ticket"], "probe: ticket", limit=MAX_TICKET),
            values=tuple(_number(v) for v in values),
            network_hash=read_text(raw.get("network"), "probe: network"),
            class_id=class_id,
            device_token=device,
        )


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # JSON has integers of any size
        return math.inf
