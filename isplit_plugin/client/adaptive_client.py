"""``AdaptiveClient``: each photo goes the way that is fastest now."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from typing import Final

from .. import image as im
from ..adaptive import Decision, LinkFilter, Option, decide, patience_ms
from ..closing import Closing
from ..errors import BundleError, ImageError, IsplitError, QueryError
from ..image import Image
from ..schema import OBJECTIVES, ON_DEVICE, Prediction, Recommendation
from .advice import Advice
from .device_options import SERVER_DOWN, device_options
from .explanation import Explanation
from .own_times import OwnTimes
from .splitclient import SplitClient
from .stream import FrameStream

REFRESH_S: Final = 30.0
"""Seconds between two questions for advice."""

_OWN_ERRORS: Final = (ImageError, BundleError, QueryError)
"""Errors that asking another server, or answering here, would not mend."""
_IN_FLIGHT: Final = 2
"""Requests that may be under way at once while photos are answered here."""
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_PROBE_S: Final = 5.0
"""While every photo is answered here, a request is tried this often to see whether that pays."""
_LOGGER = logging.getLogger("isplit.client")


class AdaptiveClient(Closing):
    """Decides for each photo where the network is cut, from what it sees of link and server.

    It takes over a :class:`SplitClient` and closes it, too::

        with AdaptiveClient(SplitClient(url, model="resnet50", head=head), deadline_ms=150) as app:
            prediction = app.predict("cat.jpg")
            print(prediction.label, prediction.cut, prediction.timings.total_ms)
            print(app.explain())

    Of the cuts that the server's advice calls accurate enough for this device's classes, it takes
    the one with the lowest expected latency. With a deadline, it takes the fastest of those that
    surely meet it, or else the likeliest to meet it. See :func:`isplit_plugin.adaptive.decide`.

    Where the bundle holds the whole network, no photo waits for a server that is late or away: the
    device starts its own answer in time (:func:`isplit_plugin.adaptive.patience_ms`). Such a
    prediction has ``fallback`` set, and its ``round_trip_ms`` is the time lost.

    Advice is asked for in the background. Until the first answer, the client's own cut is used. If
    the endpoint fails, the last advice stays. Several threads may use the client at once.

    Parameters:
        client: the client that does the work. Its ``local_fallback`` is not needed.
        deadline_ms: milliseconds within which an answer is wanted; ``None`` for as soon as
            possible. :meth:`predict` takes another one for a photo.
        objective: "latency", or "bytes" for the fewest bytes among the cuts that meet the deadline.
        tolerance: the share of answers that may differ from the full network's.
        refresh_s: seconds between two questions for advice.
        link: the estimate of the link to start with.

    Raises:
        QueryError: a parameter is out of range.
    """

    def __init__(
        self,
        client: SplitClient,
        *,
        deadline_ms: float | None = None,
        objective: str = "latency",
        tolerance: float = 0.01,
        refresh_s: float = REFRESH_S,
        link: LinkFilter | None = None,
    ) -> None:
        _check(deadline_ms, objective, tolerance, refresh_s)
        self._client = client
        self._deadline_ms = deadline_ms
        self._objective = objective
        self._link = link or LinkFilter()
        self._times = OwnTimes()
        self._lock = threading.Lock()
        self._landing = threading.Condition(self._lock)
        self._in_flight = 0
        self._down_until_s = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._last_request_s = -math.inf
        self._probe_s = _PROBE_S
        self._advice = Advice(
            lambda: client.recommendation(accuracy_tolerance=tolerance), refresh_s=refresh_s
        )
        self._threads = ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="isplit request")

    def predict(self, image: Image, *, deadline_ms: float | None = None) -> Prediction:
        """Classify one image the way that is best now.

        Parameters:
            image: as for :meth:`SplitClient.predict`.
            deadline_ms: for this photo; by default the client's.

        Raises:
            QueryError: the deadline is not a positive number.
            IsplitError: as :meth:`SplitClient.predict`, where the device cannot answer by itself.
        """
        started = time.perf_counter()
        if deadline_ms is None:
            deadline_ms = self._deadline_ms
        _check_deadline(deadline_ms)
        self._advice.start()
        decision = self._decide(deadline_ms)
        if decision.taken.option.is_local:
            if self._probe_is_due():
                image = im.read_once(image)
                self._probe(image, decision)
            return self._predict_here(image)
        patience = patience_ms(decision, deadline_ms)
        if patience is None:
            return self._predict_there(image, decision.taken.option)
        return self._predict_hedged(image, decision.taken.option, started, patience)

    async def predict_async(self, image: Image, *, deadline_ms: float | None = None) -> Prediction:
        """As :meth:`predict`, without blocking the event loop: a thread waits."""
        return await asyncio.to_thread(self.predict, image, deadline_ms=deadline_ms)

    def stream(
        self,
        frames: Iterable[Image],
        *,
        max_in_flight: int = 2,
        drop: str = "oldest",
        deadline_ms: float | None = None,
    ) -> FrameStream:
        """Classify frames as they arrive; see :class:`FrameStream`."""
        _check_deadline(deadline_ms)
        return FrameStream(
            lambda image: self.predict(image, deadline_ms=deadline_ms),
            frames,
            max_in_flight=max_in_flight,
            drop=drop,
        )

    def explain(self, *, deadline_ms: float | None = None) -> Explanation:
        """Where a photo would go now, and why not elsewhere. Sends nothing."""
        if deadline_ms is None:
            deadline_ms = self._deadline_ms
        _check_deadline(deadline_ms)
        decision = self._decide(deadline_ms)
        with self._lock:
            estimate = self._link.estimate()
            down_s = max(0.0, self._down_until_s - time.monotonic())
        return Explanation(decision, estimate, self._advice.newest, down_s)

    def wait_for_advice(self, timeout_s: float = 10.0) -> Recommendation | None:
        """The newest advice, after waiting at most ``timeout_s`` for the first."""
        return self._advice.wait(timeout_s)

    @property
    def client(self) -> SplitClient:
        """The client that does the work."""
        return self._client

    def close(self) -> None:
        """Close the client. Requests that are under way are ended."""
        self._advice.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._landing:
            while self._in_flight:
                # A request that was about to begin begins after the first call of cancel().
                self._client.transport.cancel()
                self._landing.wait(timeout=0.05)
        self._client.close()

    def _decide(self, deadline_ms: float | None) -> Decision:
        options = device_options(
            self._client, self._advice.newest, self._times, server_down=self._is_down()
        )
        with self._lock:
            self._link.pass_time(time.monotonic())
            return decide(options, self._link, deadline_ms=deadline_ms, objective=self._objective)

    def _predict_here(self, image: Image, *, lost_ms: float = 0.0) -> Prediction:
        prediction = self._client.predict(image, cut=ON_DEVICE)
        self._times.add(ON_DEVICE, prediction.timings.total_ms)
        if not lost_ms:
            return prediction
        timings = replace(prediction.timings, round_trip_ms=lost_ms)
        return replace(prediction, timings=timings, fallback=True)

    def _predict_there(self, image: Image, option: Option) -> Prediction:
        """Ask the server, and learn from how long it took or from its failure."""
        started = time.perf_counter()
        with self._lock:
            self._last_request_s = time.monotonic()
        try:
            prediction = self._client.predict(image, cut=option.cut)
        except IsplitError as error:
            if not isinstance(error, _OWN_ERRORS):
                self._server_failed(error)
            raise
        if not prediction.fallback:
            self._learn(prediction, option, started)
        return prediction

    def _predict_hedged(
        self, image: Image, option: Option, started: float, patience: float
    ) -> Prediction:
        """Ask the server in a thread, and answer here if it is late."""
        image = im.read_once(image)  # two threads read it
        request = self._submit(image, option)
        if request is None:
            return self._predict_here(image)
        left_s = max(0.0, patience / 1e3 - (time.perf_counter() - started))
        lost_ms = 0.0
        try:
            return request.result(timeout=left_s)
        except FutureTimeoutError:
            lost_ms = _ms_since(started)
            _LOGGER.info("no answer within %.0f ms: answering here", lost_ms)
        except IsplitError as error:
            if isinstance(error, _OWN_ERRORS):
                raise
            lost_ms = _ms_since(started)
            _LOGGER.info("the server failed (%s): answering here", error.message)
        prediction = self._predict_here(image, lost_ms=lost_ms)
        if request.done() and request.exception() is None:
            return request.result()
        with self._lock:
            if not request.done():
                self._link.observe_longer(option.nbytes, _ms_since(started), time.monotonic())
        return prediction

    def _submit(self, image: Image, option: Option) -> Future[Prediction] | None:
        """Start a request in a thread; ``None`` while enough of them are under way."""
        with self._lock:
            if self._in_flight >= _IN_FLIGHT:
                return None
            self._in_flight += 1
        request = self._threads.submit(self._predict_there, image, option)
        request.add_done_callback(self._landed)
        return request

    def _landed(self, _request: Future[Prediction]) -> None:
        with self._landing:
            self._in_flight -= 1
            self._landing.notify_all()

    def _probe_is_due(self) -> bool:
        """Whether a request should be tried although photos are answered here."""
        with self._lock:
            now_s = time.monotonic()
            due = now_s >= max(self._last_request_s + self._probe_s, self._down_until_s)
            if due:
                self._last_request_s = now_s
                self._probe_s = min(2 * self._probe_s, _LONGEST_PAUSE_S)
        return due

    def _probe(self, image: Image, decision: Decision) -> None:
        """Send this photo at the cheapest cut in the background, to learn about the link."""
        remote = [row.option for row in decision.options if not row.option.is_local]
        usable = [
            option for option in remote if not option.refused or option.refused == SERVER_DOWN
        ]
        if usable:
            cheapest = min(usable, key=lambda option: (option.nbytes, option.device_ms))
            self._submit(image, cheapest)

    def _learn(self, prediction: Prediction, option: Option, started: float) -> None:
        timings = prediction.timings
        own_ms = timings.prepare_ms + timings.head_ms + timings.encode_ms
        self._times.add(option.cut, own_ms)
        network_ms = timings.round_trip_ms - timings.decode_ms - timings.tail_ms
        with self._lock:
            self._link.observe(prediction.bytes_sent, max(network_ms, 0.1), time.monotonic())
            self._down_until_s = 0.0
            self._pause_s = _FIRST_PAUSE_S
            if _ms_since(started) < 2 * self._expected_here_ms():
                self._probe_s = _PROBE_S
            estimate = self._link.estimate()
        known = estimate.bandwidth_known
        self._client.report_bandwidth(estimate.bandwidth_mbps if known else None)

    def _expected_here_ms(self) -> float:
        ms = self._times.measured_ms(ON_DEVICE)
        return math.inf if ms is None else ms

    def _server_failed(self, error: IsplitError) -> None:
        with self._lock:
            self._down_until_s = time.monotonic() + self._pause_s
            _LOGGER.info(
                "the server failed; next trial in %.1f s: %s", self._pause_s, error.message
            )
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _is_down(self) -> bool:
        with self._lock:
            return time.monotonic() < self._down_until_s


def _check(deadline_ms: float | None, objective: str, tolerance: float, refresh_s: float) -> None:
    _check_deadline(deadline_ms)
    if objective not in OBJECTIVES:
        raise QueryError(
            f"objective: expected latency or bytes, got {objective!r}", field="objective"
        )
    if not 0 <= tolerance <= 1:
        raise QueryError(f"tolerance: expected 0 to 1, got {tolerance!r}", field="tolerance")
    if not (math.isfinite(refresh_s) and refresh_s > 0):
        raise QueryError(
            f"refresh_s: expected a positive number, got {refresh_s!r}", field="refresh_s"
        )


def _check_deadline(deadline_ms: float | None) -> None:
    if deadline_ms is not None and not (math.isfinite(deadline_ms) and deadline_ms > 0):
        raise QueryError(
            f"deadline_ms: expected a positive number, got {deadline_ms!r}", field="deadline_ms"
        )


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
