"""``ProbeClient``: a client whose heads run on torch, and who completes importance curves without sending a photo.

A probe is two requests besides the prediction's own. The first sends the activation again; the tail answers with the
gradient of its class score at the cut, and a ticket. The device finishes the backward pass through its head, and posts
the ticket with one number for each point of the curve before the cut. Neither carries the photo, nor anything that the
prediction did not carry but those numbers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from .. import image as im
from ..client import ENDPOINT, SplitClient, TorchHead
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
from ..schema import INPUT, OUTPUT, Cut, Manifest, Prediction
from ..wire import TailRequest, encode_activation, header_length, http_headers, load_json
from .messages import ProbeReport, decode_probe_response

if TYPE_CHECKING:
    from ..network import HeadImportance

PAUSE_S: Final = 60.0
"""How long :meth:`ProbeClient.maybe_probe` holds still after a refusal that does not say."""
_MAX_PAUSE_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A probe that the server took. ``values``: what this device told, one number for each of ``points``, the points
    before the cut. Milliseconds of both passes through the head and of both requests; bytes of their bodies."""

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


class ProbeClient:
    """Predicts like the :class:`SplitClient` it wraps, and now and then follows a prediction with a probe.

    ``client``: with torch heads (``runtime="torch"``). ``gradient``: "fp16", or "fp32" for comparisons. ``draw``: gives
    numbers in [0, 1), uniform and independent. Not for several threads at once. Raises BundleError for another runtime.

    Call :meth:`predict` as usual, and :meth:`maybe_probe` when there is time: it obeys the rate that the server
    advised in its last answer.
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
        self._gradient, self._draw, self._clock = gradient, draw, clock
        self._inside: dict[str, HeadImportance] = {}
        self._last: tuple[Image, Prediction] | None = None
        self._not_before = -float("inf")

    def predict(self, image: Image, cut: Cut | str | None = None) -> Prediction:
        """As :meth:`SplitClient.predict`; keeps the image until the next call, for :meth:`maybe_probe`."""
        prediction = self.client.predict(image, cut)
        self._last = image, prediction
        return prediction

    def maybe_probe(self) -> ProbeResult | None:
        """Follow the last prediction with a probe, with the probability that the server advised; ``None`` if not.

        At most one probe for each prediction. A refusal or an outage is no error here: it is obeyed, for as long as the
        server says or ``PAUSE_S``.
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
            wait = error.details.get("retry_after_s")
            told = (
                isinstance(wait, int | float)
                and not isinstance(wait, bool)
                and 0 < wait < _MAX_PAUSE_S
            )
            self._not_before = self._clock() + (float(wait) if told else PAUSE_S)  # type: ignore[arg-type]
        except (ProbeError, TransportError):
            self._not_before = self._clock() + PAUSE_S
        return None

    def probe(self, image: Image, cut: Cut | str | None = None) -> ProbeResult:
        """One probe now, whatever the server advises.

        Raises ProbeError and its kinds (off, out of budget, refused values), SplitPointError where there is no cut,
        BundleError for a head that cannot be looked into, WireError, and what :meth:`SplitClient.predict` raises.
        """
        # Not at the top: the endpoint's worker imports this package and must not load torch.
        import torch

        cut = self.client.resolve(cut)
        if cut.split_point in (INPUT, OUTPUT):
            raise ProbeError(f"expected a split point for a probe, got {cut.split_point!r}")
        point = cut.split_point
        inside = self._look_inside(point)
        x = torch.from_numpy(np.stack([im.preprocess(image, self._manifest.preprocessing)]))
        started = time.perf_counter()
        forward = inside.run(x)
        forward_ms = _since(started)
        axis = self._manifest.split_point(point).channel_axis
        activation = encode_activation(
            forward.activation.to(torch.float32).numpy(), cut.coding, channel_axis=axis
        )
        token = self.client.device_token()
        request = TailRequest(
            cut=cut,
            tensor=activation,
            network_hash=self._manifest.network_hash,
            group=self.client.group,
            device_token=token,
            probe=True,
            gradient=self._gradient,
        )
        body, length = request.encode()
        started = time.perf_counter()
        reply = self.client.transport.post(
            f"/predictions/{self.client.model}", body, http_headers(length)
        )
        request_ms = _since(started)
        try:
            shape = self._manifest.split_point(point).shape
            answer = decode_probe_response(reply.body, header_length(reply.headers), shape)
        except WireError as error:
            raise ProtocolError(f"the tail's answer to a probe: {error.message}") from error
        if (answer.split_point, answer.network_hash) != (point, self._manifest.network_hash):
            raise ProtocolError(
                f"expected the gradient at {point!r}, got that at {answer.split_point!r}"
            )
        started = time.perf_counter()
        values = tuple(float(v) for v in forward.finish(torch.from_numpy(answer.gradient))[0])
        backward_ms = _since(started)
        report = ProbeReport(
            ticket=answer.ticket,
            values=values,
            network_hash=self._manifest.network_hash,
            class_id=answer.class_id,
            device_token=token,
        ).encode()
        started = time.perf_counter()
        received = self._post(report)
        points = self._manifest.split_points[: len(values)]
        return ProbeResult(
            class_id=answer.class_id,
            cut=cut,
            points=tuple(p.name for p in points),
            values=values,
            forward_ms=forward_ms,
            backward_ms=backward_ms,
            request_ms=request_ms,
            report_ms=_since(started),
            bytes_sent=len(body) + len(report),
            bytes_received=len(reply.body) + received,
        )

    def close(self) -> None:
        """Close the client."""
        self._last = None
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _look_inside(self, split_point: str) -> HeadImportance:
        if split_point not in self._inside:
            from ..network import HeadImportance

            program = self._head.program(split_point)
            self._inside[split_point] = HeadImportance.from_program(
                program, self._manifest, split_point
            )
        return self._inside[split_point]

    def _post(self, report: bytes) -> int:
        """Bytes of the endpoint's answer. Raises what it refused the report with."""
        try:
            reply = self.client.transport.post(
                ENDPOINT, report, {"Content-Type": "application/json"}
            )
        except TicketError as error:
            # The ticket is ours alone: where it was used, our own first try got through and its answer did not.
            if error.details.get("reason") == "replayed":
                return 0
            raise
        try:
            accepted = load_json(reply.body, "report")
        except WireError as error:
            raise ProtocolError(f"the endpoint's answer to a probe: {error.message}") from error
        if not isinstance(accepted, dict) or accepted.get("accepted") is not True:
            raise ProtocolError("the endpoint answered a probe with something else")
        return len(reply.body)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
