"""What a split-gradient probe sends back and forth, besides the request of :mod:`.request` with ``probe=True``.

The tail's answer: an output tensor ``gradient`` (N = 1), d score / d activation at the cut, and a ticket, which the
server signed and will want back. The gradient is scaled by a power of two to the upper end of fp16's range: that is
exact, and small gradients keep their digits. The device's report then goes to the endpoint `isplit` as JSON::

    {"probe": {"ticket": "...", "values": [...], "network": "...", "class": 281, "device": "isplit1...."}}

``values``: one importance value for each point of the curve before the cut, in order.
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
"""The largest magnitude that travels lies below 2^15; fp16 ends at 65504."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ProbeResponse:
    """The tail's answer to a probe. ``gradient``: (1, *shape of the cut) float32, of the score of ``class_id``.

    ``codec``: how the gradient travels, one of ``GRADIENTS``. ``device``: as in a TailResponse.
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
        """The body and the length of its JSON. Raises WireError where the gradient is not finite."""
        most = float(np.abs(self.gradient).max()) if self.gradient.size else 0.0
        scale = 2.0 ** (_TOP - math.frexp(most)[1]) if math.isfinite(most) and most > 0 else 1.0
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
    """Read a tail's answer to a probe at a cut of ``shape`` (without batch). Raises WireError, and nothing else."""
    answer = decode_infer_response(body, json_length)
    if len(answer.outputs) != 1 or answer.outputs[0].name != GRADIENT:
        raise WireError(
            f"expected the output {GRADIENT!r} alone, got {', '.join(t.name for t in answer.outputs)}"
        )
    told = answer.parameters
    class_id, scale, tail_ms = told.get(_CLASS), told.get(_SCALE), told.get(P_TAIL_MS, 0.0)
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
        ticket=read_text(told.get(_TICKET), _TICKET, limit=MAX_TICKET),
        split_point=read_text(told.get(P_SPLIT_POINT), P_SPLIT_POINT),
        network_hash=read_text(told.get(P_NETWORK), P_NETWORK),
        tail_ms=float(tail_ms),
        device=read_text(told.get(P_DEVICE, ""), P_DEVICE),
        model=answer.model_name,
        version=answer.model_version,
        id=answer.id,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """A device's part of a probe's curve. ``device_token``: the one that the probe was asked for with, if any."""

    ticket: str
    values: tuple[float, ...]
    network_hash: str
    class_id: int
    device_token: str | None = None

    def encode(self) -> bytes:
        """The JSON body to post. Raises WireError where a value is not finite."""
        told: dict[str, Any] = {
            "ticket": self.ticket,
            "values": list(self.values),
            "network": self.network_hash,
            "class": self.class_id,
        }
        if self.device_token is not None:
            told["device"] = self.device_token
        try:
            return json.dumps({"probe": told}, separators=(",", ":"), allow_nan=False).encode()
        except ValueError as error:
            raise WireError("the head's values hold NaN or infinity") from error

    @classmethod
    def from_json(cls, raw: object) -> Self:
        """Read the object under ``probe``; what its values may be is not looked at here. Raises WireError."""
        known = {"ticket", "values", "network", "class", "device"}
        if (
            not isinstance(raw, Mapping)
            or not {"ticket", "values"} <= raw.keys()
            or raw.keys() - known
        ):
            raise WireError(
                f"probe: expected an object with ticket and values; known: {', '.join(sorted(known))}"
            )
        values, class_id, device = raw["values"], raw.get("class"), raw.get("device")
        if not isinstance(values, list) or len(values) > MAX_POINTS:
            raise WireError(f"probe: values: expected a list of at most {MAX_POINTS} numbers")
        if any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
            raise WireError("probe: values: expected numbers")
        if type(class_id) is not int:
            raise WireError(f"probe: class: expected a class id, got {str(class_id)[:40]!a}")
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
