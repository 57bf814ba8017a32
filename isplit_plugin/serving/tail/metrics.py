"""Our Prometheus metrics, through TorchServe's metrics cache.

The names are declared in ``config/metrics.yaml``; a server that runs with another metrics file gets
them added here. Dimension values come from the manifest and from our own error codes, never from a
client: a label that a client can choose is an unbounded one.

TorchServe learns of a metric by a line on the worker's standard output, which its Java part reads
and parses. Four lines for each request cost more than reading and checking the request. So every
metric is a counter: a request adds to sums in memory, and a thread writes the sums once a second.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

from ...closing import Closing

EVERY_S: Final = 1.0
"""Seconds between two writes. A killed worker loses the counts of the last ones."""

_OF_MODEL: Final = ("ModelName", "ModelVersion")
_OF_CUT: Final = (*_OF_MODEL, "SplitPoint", "Codec")
_LOGGER = logging.getLogger(__name__)

DECLARED: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    ("isplit_requests_total", "Count", _OF_CUT),
    ("isplit_received_bytes_total", "Count", _OF_CUT),
    ("isplit_decode_milliseconds_total", "ms", _OF_CUT),
    ("isplit_tail_milliseconds_total", "ms", _OF_CUT),
    ("isplit_errors_total", "Count", (*_OF_MODEL, "Code")),
    ("isplit_observations_dropped_total", "Count", _OF_MODEL),
    ("isplit_device_tokens_refused_total", "Count", (*_OF_MODEL, "Code")),
    ("isplit_probes_total", "Count", (*_OF_MODEL, "SplitPoint")),
    ("isplit_refined_total", "Count", (*_OF_MODEL, "SplitPoint")),
    ("isplit_audited_total", "Count", (*_OF_MODEL, "SplitPoint")),
    ("isplit_audited_differing_total", "Count", (*_OF_MODEL, "SplitPoint")),
)


class TailMetrics(Closing):
    """Counts and times of one version of a model.

    The thread starts with the first count.

    Parameters:
        cache: TorchServe's ``context.metrics``; ``None`` counts nothing.
        every_s: seconds between two writes.
    """

    def __init__(self, cache: Any, model: str, version: str, *, every_s: float = EVERY_S) -> None:
        self._dimensions = (model, version)
        self._metrics: dict[str, Any] = {}
        self._sums: dict[tuple[str, tuple[str, ...]], float] = {}
        self._lock = threading.Lock()
        self._every_s = every_s
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._dropped = 0
        if cache is None:
            return
        from ts.metrics.metric_type_enum import MetricTypes

        for name, unit, dimensions in DECLARED:
            known = cache.cache.get(MetricTypes.COUNTER, {}).get(name)
            self._metrics[name] = known or cache.add_metric_to_cache(
                metric_name=name,
                unit=unit,
                dimension_names=list(dimensions),
                metric_type=MetricTypes.COUNTER,
            )

    def served(
        self, split_point: str, codec: str, nbytes: int, decode_ms: float, tail_ms: float
    ) -> None:
        """One answered request."""
        cut = (split_point, codec)
        self._add(
            ("isplit_requests_total", cut, 1),
            ("isplit_received_bytes_total", cut, nbytes),
            ("isplit_decode_milliseconds_total", cut, decode_ms),
            ("isplit_tail_milliseconds_total", cut, tail_ms),
        )

    def failed(self, code: str) -> None:
        """One request answered with an error of ``code``."""
        self._add(("isplit_errors_total", (code,), 1))

    def token(self, status: str) -> None:
        """One device token that did not hold ("invalid: <reason>").

        Those that do are the rule, and cost nothing.
        """
        if status.startswith("invalid"):
            reason = status.rpartition(" ")[2]
            self._add(("isplit_device_tokens_refused_total", (reason,), 1))

    def count(self, name: str, split_point: str) -> None:
        """One more on a counter that has the split point as its dimension."""
        self._add((name, (split_point,), 1))

    def refined(self, split_point: str, items: int) -> None:
        """Items of a first request that are to be sent again."""
        if items:
            self._add(("isplit_refined_total", (split_point,), items))

    def audited(self, split_point: str, items: int, differing: int) -> None:
        """Items of a second request whose first answer was sure, and those that got another class."""
        if items:
            self._add(("isplit_audited_total", (split_point,), items))
        if differing:
            self._add(("isplit_audited_differing_total", (split_point,), differing))

    def dropped(self, total: int) -> None:
        """The recorder's count of dropped observations so far."""
        if total > self._dropped:
            self._add(("isplit_observations_dropped_total", (), total - self._dropped))
            self._dropped = total

    def flush(self) -> None:
        """Write what was counted since the last time."""
        with self._lock:
            sums, self._sums = self._sums, {}
        for (name, dimensions), value in sums.items():
            rounded = value if isinstance(value, int) else round(value, 3)
            self._metrics[name].add_or_update(rounded, [*self._dimensions, *dimensions])

    def close(self) -> None:
        """Stop the thread, and write what it has not written."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        self.flush()

    def _add(self, *counts: tuple[str, tuple[str, ...], float]) -> None:
        with self._lock:
            for name, dimensions, value in counts:
                if name in self._metrics:
                    key = (name, dimensions)
                    self._sums[key] = self._sums.get(key, 0) + value
            if self._thread is None and self._sums and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=self._run, name="isplit-metrics", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(self._every_s):
            try:
                self.flush()
            except Exception as error:  # whatever it is, the next metrics may be written
                _LOGGER.error("isplit: metrics were not written: %s", type(error).__name__)
