"""Our Prometheus metrics, through TorchServe's metrics cache.

The names are declared in ``config/metrics.yaml``; a server that runs with another metrics file gets
them added here. Dimension values come from the manifest and from our own error codes, never from a
client: a label that a client can choose is an unbounded one.
"""

from __future__ import annotations

from typing import Any, Final

_COUNTER: Final = "counter"
_HISTOGRAM: Final = "histogram"
_OF_MODEL: Final = ("ModelName", "ModelVersion")

DECLARED: Final[tuple[tuple[str, str, str, tuple[str, ...]], ...]] = (
    ("isplit_requests_total", _COUNTER, "Count", (*_OF_MODEL, "SplitPoint", "Codec")),
    ("isplit_received_bytes_total", _COUNTER, "Count", (*_OF_MODEL, "SplitPoint", "Codec")),
    ("isplit_errors_total", _COUNTER, "Count", (*_OF_MODEL, "Code")),
    ("isplit_observations_dropped_total", _COUNTER, "Count", _OF_MODEL),
    ("isplit_device_tokens_refused_total", _COUNTER, "Count", (*_OF_MODEL, "Code")),
    ("isplit_probes_total", _COUNTER, "Count", (*_OF_MODEL, "SplitPoint")),
    ("isplit_decode_milliseconds", _HISTOGRAM, "ms", (*_OF_MODEL, "SplitPoint")),
    ("isplit_tail_milliseconds", _HISTOGRAM, "ms", (*_OF_MODEL, "SplitPoint")),
)


class TailMetrics:
    """Counts and times of one version of a model.

    ``cache``: TorchServe's ``context.metrics``; ``None`` counts nothing.
    """

    def __init__(self, cache: Any, model: str, version: str) -> None:
        self._dimensions = [model, version]
        self._metrics: dict[str, Any] = {}
        self._dropped = 0
        if cache is None:
            return
        from ts.metrics.metric_type_enum import MetricTypes

        for name, kind, unit, dimensions in DECLARED:
            known = cache.cache.get(MetricTypes(kind), {}).get(name)
            self._metrics[name] = known or cache.add_metric_to_cache(
                metric_name=name,
                unit=unit,
                dimension_names=list(dimensions),
                metric_type=MetricTypes(kind),
            )

    def served(
        self, split_point: str, codec: str, nbytes: int, decode_ms: float, tail_ms: float
    ) -> None:
        """One answered request."""
        self._add("isplit_requests_total", 1, split_point, codec)
        self._add("isplit_received_bytes_total", nbytes, split_point, codec)
        self._add("isplit_decode_milliseconds", round(decode_ms, 4), split_point)
        self._add("isplit_tail_milliseconds", round(tail_ms, 4), split_point)

    def failed(self, code: str) -> None:
        """One request answered with an error of ``code``."""
        self._add("isplit_errors_total", 1, code)

    def token(self, status: str) -> None:
        """One device token that did not hold ("invalid: <reason>").

        Those that do are the rule, and cost nothing.
        """
        if status.startswith("invalid"):
            self._add("isplit_device_tokens_refused_total", 1, status.rpartition(" ")[2])

    def count(self, name: str, split_point: str) -> None:
        """One more on a counter that has the split point as its dimension."""
        self._add(name, 1, split_point)

    def dropped(self, total: int) -> None:
        """The recorder's count of dropped observations so far."""
        if total > self._dropped:
            self._add("isplit_observations_dropped_total", total - self._dropped)
            self._dropped = total

    def _add(self, name: str, value: float, *dimensions: str) -> None:
        metric = self._metrics.get(name)
        if metric is not None:
            metric.add_or_update(value, [*self._dimensions, *dimensions])
