"""``ProbeClient``: a client with PyTorch heads that completes importance curves by probes.

A probe is two requests besides that of the prediction. The first sends the activation again, and
the tail answers with the gradient of its class score at the cut, and a ticket. The device finishes
the backward pass through its head. The second request posts the ticket with one number for each
point of the curve before the cut. Neither request carries the photo.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from .. import image as im
from ..client import ENDPOINT, SplitClient, TorchHead
from ..closing import Closing
from ..errors import (
    BundleError,
    ProbeBudgetError,
    ProbeError,
    ProtocolError,
    TicketError,
    TransportError,
    WireError,
)
from ..image import Image
from ..schema import INPUT, OUTPUT, Cut, FloatArray, Manifest, Prediction
from ..stopwatch import ms_since
from ..wire import TailRequest, header_length, http_headers, load_json
from .messages import ProbeReport, ProbeResponse, decode_probe_response

if TYPE_CHECKING:
    from ..network import HeadImportance

PAUSE_S: Final = 60.0
"""How long :meth:`ProbeClient.maybe_probe` pauses after a refusal that names no time."""
_MAX_ENVELOPE: Final = 128 * 1024
"""The longest answer to a probe besides its gradient, of four bytes for a value at most."""
_MAX_ACCEPTANCE_VALUES: Final = 1000
_MAX_PAUSE_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A probe that the server accepted.

    Attributes:
        points: the split points before the cut.
        values: the importance at each of them.
        forward_ms, backward_ms: the two passes through the head.
        request_ms, report_ms: the two requests.
        bytes_sent, bytes_received: the bodies of both requests.
    """

    class_id: int
    cut: Cut
    points: tuple[str, ...]
    values: tuple[float, ...]
    forward_ms: float
    backward_ms: float
    request_ms: float
    report_ms: float
    bytes_sent: int
    bytes_received: int


class ProbeClient(Closing):
    """Predicts like the :class:`SplitClient` it wraps, and follows some predictions with a probe.

    Call :meth:`predict` as usual, and :meth:`maybe_probe` when there is time. It follows the rate
    that the server advised in its last answer. A client must not be used by several threads at
    once.

    Parameters:
        client: a client with PyTorch heads (``runtime="torch"``).
        gradient: how the gradient travels, "fp16" or "fp32".
        draw: returns independent, uniform numbers in [0, 1).
        clock: seconds, monotonic.

    Raises:
        BundleError: the client has another runtime.
    """

    def __init__(
        self,
        client: SplitClient,
        *,
        gradient: str = "fp16",
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(client.runtime, TorchHead) or client.manifest is None:
            raise BundleError(
                "probes need heads that run on torch: SplitClient(..., head=..., runtime='torch')"
            )
        self.client = client
        self._head: TorchHead = client.runtime
        self._manifest: Manifest = client.manifest
        self._gradient = gradient
        self._draw = draw
        self._clock = clock
        self._importances: dict[str, HeadImportance] = {}
        self._last: tuple[Image, Prediction] | None = None
        self._not_before = -float("inf")

    def predict(self, image: Image, cut: Cut | str | None = None) -> Prediction:
        """As :meth:`SplitClient.predict`. The image is kept for :meth:`maybe_probe`."""
        image = im.read_once(image)
        prediction = self.client.predict(image, cut)
        self._last = image, prediction
        return prediction

    def maybe_probe(self) -> ProbeResult | None:
        """Follow the last prediction with a probe, with the probability that the server advised.

        Returns ``None`` if there was no probe. A prediction is followed by one probe at most. A
        refusal or an outage raises nothing: there are no probes for as long as the server says, or
        for ``PAUSE_S``.
        """
        if self._last is None:
            return None
        image, prediction = self._last
        self._last = None
        if self._clock() < self._not_before or not self._draw() < prediction.probe_rate:
            return None
        try:
            return self.probe(image, prediction.cut)
        except ProbeBudgetError as error:
            self._not_before = self._clock() + _pause_s(error)
        except (ProbeError, TransportError):
            self._not_before = self._clock() + PAUSE_S
        return None

    def probe(self, image: Image, cut: Cut | str | None = None) -> ProbeResult:
        """One probe now, whatever rate the server advises.

        Raises:
            ProbeError: probes are off or out of budget, the values are refused, or ``cut`` is
                `input` or `output`.
            BundleError: there is no PyTorch head, or it cannot be differentiated.
            WireError: the activation cannot be encoded.
            TransportError: as :meth:`SplitClient.predict`, whose errors it raises too.
        """
        # Not at the top: the endpoint's worker imports this package and must not load torch.
        import torch

        cut = self.client.resolve(cut).first
        if cut.split_point in (INPUT, OUTPUT):
            raise ProbeError(f"expected a split point for a probe, got {cut.split_point!r}")
        importance = self._importance(cut.split_point)
        x = torch.from_numpy(np.stack([im.preprocess(image, self._manifest.preprocessing)]))
        started = time.perf_counter()
        forward = importance.run(x)
        forward_ms = ms_since(started)
        token = self.client.device_token()
        activation = forward.activation.to(torch.float32).numpy()
        started = time.perf_counter()
        answer, sent, received = self._request_gradient(cut, activation, token)
        request_ms = ms_since(started)
        started = time.perf_counter()
        values = tuple(float(v) for v in forward.finish(torch.from_numpy(answer.gradient))[0])
        backward_ms = ms_since(started)
        report = ProbeReport(
            ticket=answer.ticket,
            values=values,
            network_hash=self._manifest.network_hash,
            class_id=answer.class_id,
            device_token=token,
        ).encode()
        started = time.perf_counter()
        received += self._post(report)
        return ProbeResult(
            class_id=answer.class_id,
            cut=cut,
            points=tuple(point.name for point in self._manifest.split_points[: len(values)]),
            values=values,
            forward_ms=forward_ms,
            backward_ms=backward_ms,
            request_ms=request_ms,
            report_ms=ms_since(started),
            bytes_sent=sent + len(report),
            bytes_received=received,
        )

    def close(self) -> None:
        """Close the client."""
        self._last = None
        self.client.close()

    def _importance(self, split_point: str) -> HeadImportance:
        if split_point not in self._importances:
            from ..network import HeadImportance

            self._importances[split_point] = HeadImportance.from_program(
                self._head.program(split_point), self._manifest, split_point
            )
        return self._importances[split_point]

    def _request_gradient(
        self, cut: Cut, activation: FloatArray, token: str | None
    ) -> tuple[ProbeResponse, int, int]:
        """The tail's answer, and the bytes of request and answer. Raises as :meth:`probe`."""
        shape = self._manifest.split_point(cut.split_point).shape
        request = TailRequest(
            cut=cut,
            tensor=self.client.encode_activation(activation, cut),
            network_hash=self._manifest.network_hash,
            group=self.client.group,
            device_token=token,
            probe=True,
            gradient=self._gradient,
        )
        body, json_length = request.encode()
        reply = self.client.post_to_tail(
            body, http_headers(json_length), max_bytes=_MAX_ENVELOPE + 4 * math.prod(shape)
        )
        try:
            json_length = header_length(reply.headers)
            answer = decode_probe_response(reply.body, json_length, shape)
        except WireError as error:
            raise ProtocolError(f"the tail's answer to a probe: {error.message}") from error
        expected = (cut.split_point, self._manifest.network_hash)
        if (answer.split_point, answer.network_hash) != expected:
            raise ProtocolError(
                f"expected the gradient at {cut.split_point!r} of network {expected[1]}, "
                f"got that at {answer.split_point!r} of network {answer.network_hash}"
            )
        if answer.class_id >= len(self._manifest.classes):
            raise ProtocolError(
                f"expected one of {len(self._manifest.classes)} classes, got {answer.class_id}"
            )
        return answer, len(body), len(reply.body)

    def _post(self, report: bytes) -> int:
        """Post a report. Returns the bytes of the answer, and raises the error in it."""
        try:
            reply = self.client.transport.post(
                ENDPOINT,
                report,
                {"Content-Type": "application/json"},
                max_bytes=_MAX_ENVELOPE,
            )
        except TicketError as error:
            # Only this device has the ticket. So an earlier try succeeded and its answer was lost.
            if error.details.get("reason") == "replayed":
                return 0
            raise
        try:
            accepted = load_json(reply.body, "report", max_values=_MAX_ACCEPTANCE_VALUES)
        except WireError as error:
            raise ProtocolError(f"the endpoint's answer to a probe: {error.message}") from error
        if not isinstance(accepted, dict) or accepted.get("accepted") is not True:
            raise ProtocolError(
                f"the endpoint's answer to a probe: expected accepted, got {accepted!r:.100}"
            )
        return len(reply.body)


def _pause_s(error: ProbeBudgetError) -> float:
    """The seconds that a refusal asks to wait, if they are plausible; else ``PAUSE_S``."""
    seconds = error.details.get("retry_after_s")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return PAUSE_S
    return float(seconds) if 0 < seconds < _MAX_PAUSE_S else PAUSE_S
