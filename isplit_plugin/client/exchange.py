"""One request to a tail and its answer."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import UnknownCodecError
from ..schema import Cut, Manifest, Timings
from ..wire import SCORES, TailRequest, TailResponse, http_headers, read_server_time
from .answers import bounds_of, read_answer
from .cuts import refused
from .local import EncodedImages
from .route import Route
from .transport import Token, read_token


class Exchanged(NamedTuple):
    """The tail's answer, the bytes of both bodies, and the milliseconds from one to the other.

    ``server_ms``: how long TorchServe took, as a forwarder says; NaN where none says it.
    """

    answer: TailResponse
    bytes_sent: int
    bytes_received: int
    round_trip_ms: float
    server_ms: float = math.nan

    def timings(self, encoded: EncodedImages) -> Timings:
        """The times of the request, with those of what it sent.

        Times of the server that are longer than the round trip cannot be, and count as 0.
        """
        answer = self.answer
        decode_ms, tail_ms, queue_ms = answer.decode_ms, answer.tail_ms, answer.queue_ms
        if decode_ms + tail_ms > self.round_trip_ms:
            decode_ms = tail_ms = 0.0
        work_ms = decode_ms + tail_ms
        # A forwarder sees more of the wait than the worker.
        if work_ms <= self.server_ms <= self.round_trip_ms:
            queue_ms = self.server_ms - work_ms
        elif work_ms + queue_ms > self.round_trip_ms:
            queue_ms = 0.0
        return Timings(
            prepare_ms=encoded.prepare_ms,
            head_ms=encoded.head_ms,
            encode_ms=encoded.encode_ms,
            exit_ms=encoded.exit_ms,
            round_trip_ms=self.round_trip_ms,
            decode_ms=decode_ms,
            tail_ms=tail_ms,
            queue_ms=queue_ms,
        )


@dataclass(frozen=True, slots=True)
class LinkReport:
    """What a device tells the server of its link with each request.

    Attributes:
        bandwidth_mbps: of the uplink, in megabits per second; ``None`` where it is not known.
        rtt_ms: the round trip without bytes and without the server's times; ``None`` likewise.
        queue_ms: how long requests wait at the server; ``None`` likewise.
    """

    bandwidth_mbps: float | None = None
    rtt_ms: float | None = None
    queue_ms: float | None = None


class Exchange:
    """Makes the requests of one client. Several threads may use it.

    Parameters:
        route: the way to the tail.
        manifest: of the head bundle, if there is one.
        top_k: classes in an answer.
        raw_scores: whether answers carry the scores of all classes.
        group: the device group.
        device_token: the device's token, or a callable that returns it.

    Attributes:
        link: as the server is told.
    """

    def __init__(
        self,
        route: Route,
        manifest: Manifest | None,
        *,
        top_k: int,
        raw_scores: bool,
        group: str,
        device_token: Token,
    ) -> None:
        self._route = route
        self._manifest = manifest
        self._top_k = top_k
        self._raw_scores = raw_scores
        self._group = group
        self._device_token = device_token
        self.link = LinkReport()

    def device_token(self) -> str | None:
        """The device's token now; ``None`` without one. Raises AuthenticationError."""
        return None if self._device_token is None else read_token(self._device_token)

    def request(
        self,
        encoded: EncodedImages,
        cut: Cut,
        statement: str | None,
        *,
        link: LinkReport | None = None,
    ) -> TailRequest:
        """The request for what was encoded. Raises AuthenticationError without a device's token.

        Parameters:
            statement: what an exit says of the photo.
            link: what the server is told of it, where it is not the present one.
        """
        manifest = self._manifest
        link = self.link if link is None else link
        return TailRequest(
            cut=cut,
            tensor=encoded.tensor,
            network_hash=None if manifest is None else manifest.network_hash,
            top_k=self._top_k,
            scores=self._raw_scores,
            binary_outputs=frozenset({SCORES}) if self._raw_scores else frozenset(),
            head_ms=encoded.head_ms,
            encode_ms=encoded.encode_ms,
            uplink_ms=encoded.uplink_ms(link.bandwidth_mbps),
            rtt_ms=math.nan if link.rtt_ms is None else link.rtt_ms,
            queue_ms=math.nan if link.queue_ms is None else link.queue_ms,
            group=self._group,
            device_token=self.device_token(),
            exit_answer=statement,
        )

    def send(self, request: TailRequest, images: int, *, within_s: float = math.inf) -> Exchanged:
        """Send a request for so many images. Raises as :meth:`SplitClient.predict`.

        ``within_s``: seconds for all attempts, where that is less than the deadline.
        """
        bounds = bounds_of(request, images, self._manifest)
        body, json_length = request.encode()
        started = time.perf_counter()
        try:
            reply = self._route.post(
                body, http_headers(json_length), max_bytes=bounds.max_bytes, within_s=within_s
            )
        except UnknownCodecError as error:
            raise refused(error) from error
        round_trip_ms = (time.perf_counter() - started) * 1e3
        answer = read_answer(reply, request, bounds)
        server_ms = read_server_time(reply.headers)
        return Exchanged(answer, len(body), len(reply.body), round_trip_ms, server_ms)
