"""One prediction, as the device gets it and as the server's statistics see it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .cut import OUTPUT, Cut

FloatArray = npt.NDArray[np.float32]
"""A numpy array of float32."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds of one prediction, as the device measured them.

    An image of a batch has the times of the whole batch, which it waits for.

    Attributes:
        prepare_ms: from the photo to the head's input; at a head's first use also loading it.
        decode_ms, tail_ms: the server's own, part of the round trip.
        queue_ms: the server's, too: from the arrival of the request to its answer, without decoding
            and tail. Behind a forwarder, it is all that happens in TorchServe besides, such as its
            queue; without one, only what the worker sees of it.
        exit_ms: asking the exit of the cut, whether or not it answered; 0 without ``exit_key``.
    """

    head_ms: float = 0.0
    encode_ms: float = 0.0
    round_trip_ms: float = 0.0
    decode_ms: float = 0.0
    tail_ms: float = 0.0
    prepare_ms: float = 0.0
    queue_ms: float = 0.0
    exit_ms: float = 0.0

    @property
    def server_ms(self) -> float:
        """The part of the round trip at the server: queue, decoding and tail."""
        return self.queue_ms + self.decode_ms + self.tail_ms

    @property
    def network_ms(self) -> float:
        """The part of the round trip on the network: all that the server does not answer for."""
        return max(0.0, self.round_trip_ms - self.server_ms)

    @property
    def device_ms(self) -> float:
        """What this device spent on head, encoding and exit."""
        return self.head_ms + self.encode_ms + self.exit_ms

    @property
    def total_ms(self) -> float:
        """Preparation, head, encoding, exit and round trip, within which the server's times lie."""
        return self.prepare_ms + self.device_ms + self.round_trip_ms


class TopClass(NamedTuple):
    """One of the k best classes: id, label, raw score (logit) and softmax probability."""

    class_id: int
    label: str
    score: float
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The answer for one image.

    Attributes:
        top: the k best classes, the best first.
        scores: the network's raw class scores, (classes,) float32; ``None`` where only the top k
            were asked for.
        cut: the cut that was used.
        bytes_sent, bytes_received: this image's share of the HTTP bodies.
        request_id: by which a label can be sent later.
        device: what the server made of the device token, "ok" or "invalid: <reason>". Empty where
            none was sent or nobody could verify it.
        probe_rate: the share of its requests that the device is advised to follow with a probe.
        fallback: whether the device ran the whole network because the server did not answer.
        exit: the version of the exit that answered on the device, before the request was sent.
            Empty where none did. Then ``top`` has one class, whose probability is the exit's
            confidence, and nothing was received.
        propensity: the probability with which the adaptive client took the cut that it set out
            with; 1 where nothing was left to chance.
        round_trips: how many requests were answered for it: 0 at `output`, 2 where a refining cut
            sent it again.
        is_sure: whether the answer needs no refinement. False where the second request of a
            refining cut failed, and this is the first one's answer.
    """

    top: tuple[TopClass, ...]
    scores: FloatArray | None
    cut: Cut
    bytes_sent: int
    bytes_received: int
    timings: Timings
    request_id: str
    device: str = ""
    probe_rate: float = 0.0
    fallback: bool = False
    exit: str = ""
    propensity: float = 1.0
    round_trips: int = 1
    is_sure: bool = True

    @property
    def path(self) -> str:
        """Where the answer comes from: "exit", "fallback", "device" (at `output`) or "server"."""
        if self.exit:
            return "exit"
        if self.fallback:
            return "fallback"
        return "device" if self.cut.split_point == OUTPUT else "server"

    @property
    def split_point(self) -> str:
        """The split point of the cut."""
        return self.cut.split_point

    @property
    def codec(self) -> str:
        """The codec of the cut."""
        return self.cut.codec

    @property
    def label(self) -> str:
        return self.top[0].label

    @property
    def class_id(self) -> int:
        return self.top[0].class_id

    @property
    def probability(self) -> float:
        return self.top[0].probability


@dataclass(frozen=True, slots=True)
class Observation:
    """What one answered image leaves behind for the statistics. No input can be rebuilt from it.

    Attributes:
        class_id: the predicted class; ``None`` where the request failed.
        confidence: the probability of that class.
        at: seconds since the epoch.
        head_ms, encode_ms, uplink_ms, rtt_ms, queue_ms: times that the device reported, checked for
            plausible bounds; NaN where it reported none.
        group: the device group.
        signed_group: whether the operator put the device into the group.
        error: the code of the error of a request that failed.
        device: the hash of the id in a verified device token; ``None`` without one.
    """

    request_id: str
    cut: Cut
    class_id: int | None
    confidence: float
    bytes_received: int
    decode_ms: float
    tail_ms: float
    at: float
    head_ms: float = math.nan
    encode_ms: float = math.nan
    uplink_ms: float = math.nan
    rtt_ms: float = math.nan
    queue_ms: float = math.nan
    group: str = "all"
    error: str | None = None
    device: str | None = None
    signed_group: bool = False
