"""``AdaptiveClient``: each photo goes the way that is fastest now."""

from __future__ import annotations

import asyncio
import logging
import math
import numbers
import random
import threading
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from typing import Final

from .. import image as im
from ..adaptive import EXPLORATION, MOST_IN_FLIGHT, Decider, LinkFilter, Option, Plan
from ..closing import Closing
from ..errors import BundleError, ImageError, IsplitError, QueryError
from ..image import Image
from ..schema import OBJECTIVES, ON_DEVICE, Prediction, Recommendation
from ..stopwatch import ms_since
from .advice import Advice
from .device_options import advised_options
from .exchange import LinkReport
from .explanation import Explanation
from .splitclient import SplitClient
from .stopping import Stop, stoppable
from .stream import FrameStream

REFRESH_S: Final = 30.0
"""Seconds between two questions for advice."""

_OWN_ERRORS: Final = (ImageError, BundleError, QueryError)
"""Errors that asking another server, or answering here, would not mend."""
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
    device starts its own answer in time (:func:`isplit_plugin.adaptive.patience_ms`), and the first
    of both answers counts. A prediction of the device then has ``fallback`` set, and its
    ``round_trip_ms`` is the time lost.

    Rarely, a cut whose time on this device is in doubt is tried, if it may be faster and surely meets
    the deadline (:func:`isplit_plugin.adaptive.explore`). ``Prediction.propensity`` is the
    probability with which the cut of a photo was taken.

    Exits of the client (``exit_key``) are used where they may answer: a cut with an exit is expected
    to need the server for the other photos only. An exit agrees with the tail of its cut, so what
    the cut loses and the exit's tolerance add up, and both together stay within ``tolerance``;
    otherwise, and with ``raw_scores``, the exit only watches. :meth:`explain` says so.

    Advice is asked for in the background. Until the first answer, the client's own cut is used. If
    the endpoint fails, the last advice stays. Several threads may use the client at once.

    Parameters:
        client: the client that does the work. Its ``local_fallback`` is not needed.
        deadline_ms: milliseconds within which an answer is wanted; ``None`` for as soon as
            possible. :meth:`predict` takes another one for a photo.
        objective: "latency", or "bytes" for the fewest bytes among the cuts that meet the deadline.
        tolerance: the share of answers that may differ from the full network's, exits included.
        refresh_s: seconds between two questions for advice.
        link: the estimate of the link to start with.
        exploration: the probability of such a try, below 1; 0 for never.
        seed: of the tries; by default another one for each client.

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
        exploration: float = EXPLORATION,
        seed: int | None = None,
    ) -> None:
        _check(deadline_ms, objective, tolerance, refresh_s, exploration)
        self._client = client
        self._tolerance = tolerance
        self._deadline_ms = deadline_ms
        self._decider = Decider(link, objective=objective, exploration=exploration)
        self._random = random.Random(seed)  # noqa: S311  of tries, not of secrets
        self._lock = threading.Lock()
        self._landing = threading.Condition(self._lock)
        self._in_flight = 0
        self._failure: IsplitError | None = None
        self._advice = Advice(self._ask_advice, refresh_s=refresh_s)
        self._threads = ThreadPoolExecutor(MOST_IN_FLIGHT, thread_name_prefix="isplit request")
        self._local_thread = ThreadPoolExecutor(1, thread_name_prefix="isplit local")

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
        plan = self._plan(deadline_ms)
        prediction = self._follow(plan, image, started)
        return replace(prediction, propensity=plan.decision.propensity)

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
        options = self._options()
        with self._lock:
            now_s = time.monotonic()
            return Explanation(
                decision=self._decider.decide(options, now_s, deadline_ms=deadline_ms),
                link=self._decider.link(),
                queue_ms=self._decider.queue_ms(now_s),
                advice=self._advice.newest,
                server_down_s=self._decider.down_s(now_s),
                tries=self._decider.tries,
                failure=self._failure,
            )

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
        # An answer that nobody waits for may still run: it needs the bundle.
        self._local_thread.shutdown(wait=True, cancel_futures=True)
        self._client.close()

    def _ask_advice(self) -> Recommendation:
        advice = self._client.recommendation(accuracy_tolerance=self._tolerance)
        self._client.note_exits(advice)
        return advice

    def _options(self) -> list[Option]:
        return advised_options(self._client, self._advice.newest, self._tolerance)

    def _plan(self, deadline_ms: float | None) -> Plan:
        options = self._options()
        with self._lock:
            return self._decider.plan(
                options, time.monotonic(), deadline_ms=deadline_ms, draw=self._random.random()
            )

    def _follow(self, plan: Plan, image: Image, started: float) -> Prediction:
        option = plan.option
        if plan.link_probe is not None:
            image = im.read_once(image)  # two threads read it
            # An exit's answer would say nothing about the link.
            self._submit(image, replace(plan.link_probe, exit=None))
        if option.is_local:
            return self._predict_here(image)
        if plan.patience_ms is None:
            return self._predict_or_fall_back(image, option, started)
        return self._predict_hedged(image, option, started, plan.patience_ms)

    def _predict_here(self, image: Image, *, lost_ms: float = 0.0) -> Prediction:
        prediction = self._client.predict(image, cut=ON_DEVICE)
        timings = prediction.timings
        with self._lock:
            now_s = time.monotonic()
            self._decider.ran(ON_DEVICE, timings.prepare_ms, timings.head_ms, now_s)
        if not lost_ms:
            return prediction
        timings = replace(timings, round_trip_ms=lost_ms)
        return replace(prediction, timings=timings, fallback=True)

    def _predict_there(self, image: Image, option: Option) -> Prediction:
        """Ask the server, and learn from how long it took or from its failure."""
        started = time.perf_counter()
        try:
            prediction = self._client.predict(image, cut=option.cut, may_exit=option.may_exit)
        except IsplitError as error:
            if not isinstance(error, _OWN_ERRORS):
                self._server_failed(error)
            raise
        if not prediction.fallback:
            self._learn(prediction, option, started)
        return prediction

    def _predict_or_fall_back(self, image: Image, option: Option, started: float) -> Prediction:
        """Ask the server. If it fails, answer here all the same, where the bundle can."""
        if not self._client.can_take(ON_DEVICE):
            return self._predict_there(image, option)
        image = im.read_once(image)
        try:
            return self._predict_there(image, option)
        except _OWN_ERRORS:
            raise
        except IsplitError as error:
            lost_ms = ms_since(started)
            _LOGGER.info("the server failed (%s): answering here", error.message)
        return self._predict_here(image, lost_ms=lost_ms)

    def _predict_hedged(
        self, image: Image, option: Option, started: float, patience: float
    ) -> Prediction:
        """Ask the server in a thread, and answer here if it is late."""
        image = im.read_once(image)  # two threads read it
        request = self._submit(image, option)
        if request is None:
            return self._predict_here(image)
        left_s = max(0.0, patience / 1e3 - (time.perf_counter() - started))
        try:
            return request.result(timeout=left_s)
        except FutureTimeoutError:
            _LOGGER.info("no answer within %.0f ms: answering here", ms_since(started))
        except IsplitError as error:
            if isinstance(error, _OWN_ERRORS):
                raise
            _LOGGER.info("the server failed (%s): answering here", error.message)
        return self._race(image, option, started, request)

    def _race(
        self, image: Image, option: Option, started: float, request: Future[Prediction]
    ) -> Prediction:
        """Answer here, unless the server is sooner after all."""
        lost_ms = ms_since(started)
        stop = Stop()
        local = self._local_thread.submit(self._predict_unless, stop, image, lost_ms)
        wait([request, local], return_when=FIRST_COMPLETED)
        if request.done() and request.exception() is None:
            local.cancel()
            stop.set()  # what is left of its run would slow the next photo down
            return request.result()
        prediction = local.result()
        with self._lock:
            if not request.done():
                waited_ms = ms_since(started) - option.device_ms
                self._decider.late(option.nbytes, waited_ms, time.monotonic())
        return prediction

    def _predict_unless(self, stop: Stop, image: Image, lost_ms: float) -> Prediction:
        """Answer here. ``stop`` ends it, with a BundleError."""
        with stoppable(stop):
            return self._predict_here(image, lost_ms=lost_ms)

    def _submit(self, image: Image, option: Option) -> Future[Prediction] | None:
        """Start a request in a thread; ``None`` while enough of them are under way."""
        with self._lock:
            if self._in_flight >= MOST_IN_FLIGHT:
                return None
            self._in_flight += 1
        request = self._threads.submit(self._predict_there, image, option)
        request.add_done_callback(self._landed)
        return request

    def _landed(self, _request: Future[Prediction]) -> None:
        with self._landing:
            self._in_flight -= 1
            self._landing.notify_all()

    def _learn(self, prediction: Prediction, option: Option, started: float) -> None:
        timings = prediction.timings
        with self._lock:
            now_s = time.monotonic()
            self._decider.ran(option.cut, timings.prepare_ms, timings.device_ms, now_s)
            if option.exit is not None and option.may_exit:
                self._decider.asked(option.cut, option.exit, bool(prediction.exit))
            if prediction.exit:
                return  # nothing was sent
            self._failure = None
            if prediction.is_sure:  # else a request without an answer is in the times
                trips = max(prediction.round_trips, 1)
                sent = prediction.bytes_sent / trips
                self._decider.answered(
                    sent,
                    timings.network_ms / trips,
                    ms_since(started),
                    now_s,
                    queue_ms=timings.queue_ms / trips,
                )
            estimate = self._decider.link()
            queue_ms = self._decider.queue_ms(now_s)
        self._client.report_link(
            LinkReport(
                bandwidth_mbps=estimate.bandwidth_mbps if estimate.bandwidth_known else None,
                rtt_ms=estimate.rtt_ms if estimate.rtt_known else None,
                queue_ms=queue_ms,
            )
        )

    def _server_failed(self, error: IsplitError) -> None:
        with self._lock:
            pause_s = self._decider.failed(time.monotonic())
            self._failure = error
        _LOGGER.info("the server failed; next trial in %.1f s: %s", pause_s, error.message)


def _check(
    deadline_ms: float | None,
    objective: str,
    tolerance: float,
    refresh_s: float,
    exploration: float,
) -> None:
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
    if not 0 <= exploration < 1:
        raise QueryError(
            f"exploration: expected at least 0 and below 1, got {exploration!r}",
            field="exploration",
        )


def _check_deadline(deadline_ms: float | None) -> None:
    if deadline_ms is None:
        return
    is_number = isinstance(deadline_ms, numbers.Real)
    if not (is_number and math.isfinite(deadline_ms) and deadline_ms > 0):
        raise QueryError(
            f"deadline_ms: expected a positive number, got {deadline_ms!r}", field="deadline_ms"
        )
