"""One request to a tail and its answer."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from ..errors import UnknownCodecError
from ..schema import Cut, Manifest, Timings
from ..wire import SCORES, TailRequest, TailResponse, http_headers
from .answers import bounds_of, read_answer
from .cuts import refused
from .local import EncodedImages
from .route import Route
from .transport import Token, read_token


class Exchanged(NamedTuple):
    """The tail's answer, the bytes of both bodies, and the milliseconds from one to the other."""

    answer: TailResponse
    bytes_sent: int
    bytes_received: int
    round_trip_ms: float

    def timings(self, encoded: EncodedImages) -> Timings:
        """The times of the request, with those of what it sent."""
        return Timings(
            prepare_ms=encoded.prepare_ms,
            head_ms=encoded.head_ms,
            encode_ms=encoded.encode_ms,
            round_trip_ms=self.round_trip_ms,
            decode_ms=self.answer.decode_ms,
            tail_ms=self.answer.tail_ms,
        )


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
        bandwidth_mbps: of the uplink, as the server is told; ``None`` where it is not known.
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
        self.bandwidth_mbps: float | None = None

    def device_token(self) -> str | None:
        """The device's token now; ``None`` without one. Raises AuthenticationError."""
        return None if self._device_token is None else read_token(self._device_token)

    def request(self, encoded: EncodedImages, cut: Cut, statement: str | None) -> TailRequest:
        """The request for what was encoded. ``statement``: what an exit says of the photo."""
        manifest = self._manifest
        return TailRequest(
            cut=cut,
            tensor=encoded.tensor,
            network_hash=None if manifest is None else manifest.network_hash,
            top_k=self._top_k,
            scores=self._raw_scores,
            binary_outputs=frozenset({SCORES}) if self._raw_scores else frozenset(),
            head_ms=encoded.head_ms,
            encode_ms=encoded.encode_ms,
            uplink_ms=encoded.uplink_ms(self.bandwidth_mbps),
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
        return Exchanged(answer, len(body), len(reply.body), round_trip_ms)
