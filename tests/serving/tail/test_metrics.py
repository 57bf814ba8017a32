"""Metrics: a request adds to sums, and a thread writes the sums as TorchServe reads them."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest
from toys.polling import until

from isplit_plugin.serving.resources import config_file
from isplit_plugin.serving.tail.metrics import TailMetrics

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # TorchServe forgets to close its files
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

    gc.collect()


@pytest.fixture
def cache() -> MetricsCacheYamlImpl:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        made = MetricsCacheYamlImpl(config_file_path=str(config_file("metrics.yaml")))
        made.initialize_cache()
        return made


@pytest.fixture
def metrics(cache: MetricsCacheYamlImpl) -> Iterator[TailMetrics]:
    """Metrics whose thread writes nothing within a test."""
    with TailMetrics(cache, "toy", "1.0", every_s=3600.0) as made:
        yield made


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return [
        line.removeprefix("[METRICS]").split("#hostname")[0]
        for line in lines
        if line.startswith("[METRICS]isplit")
    ]


def test_a_request_writes_nothing_and_many_are_written_as_one(
    metrics: TailMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for _ in range(1000):
        metrics.served("relu1", "fp32", 300, 0.25, 1.5)
    metrics.served("relu2", "uint8", 7, 0.1, 0.2)
    metrics.failed("too_large")
    assert _lines(caplog) == []
    metrics.flush()
    of_model = "#ModelName:toy,ModelVersion:1.0"
    one, two = f"{of_model},SplitPoint:relu1,Codec:fp32", f"{of_model},SplitPoint:relu2,Codec:uint8"
    assert _lines(caplog) == [
        f"isplit_requests_total.Count:1000|{one}|#type:COUNTER|",
        f"isplit_received_bytes_total.Count:300000|{one}|#type:COUNTER|",
        f"isplit_decode_milliseconds_total.Milliseconds:250.0|{one}|#type:COUNTER|",
        f"isplit_tail_milliseconds_total.Milliseconds:1500.0|{one}|#type:COUNTER|",
        f"isplit_requests_total.Count:1|{two}|#type:COUNTER|",
        f"isplit_received_bytes_total.Count:7|{two}|#type:COUNTER|",
        f"isplit_decode_milliseconds_total.Milliseconds:0.1|{two}|#type:COUNTER|",
        f"isplit_tail_milliseconds_total.Milliseconds:0.2|{two}|#type:COUNTER|",
        f"isplit_errors_total.Count:1|{of_model},Code:too_large|#type:COUNTER|",
    ]
    metrics.flush()
    assert _lines(caplog) == []


def test_the_thread_writes_and_closing_writes_the_rest(
    cache: MetricsCacheYamlImpl, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    metrics = TailMetrics(cache, "toy", "1.0", every_s=0.01)
    metrics.token("ok")
    metrics.token("invalid: expired")
    until(lambda: "Code:expired" in caplog.text)
    metrics.close()
    caplog.clear()
    metrics.dropped(3)
    metrics.dropped(3)
    metrics.close()
    assert [line.partition("|")[0] for line in _lines(caplog)] == [
        "isplit_observations_dropped_total.Count:3"
    ]


def test_without_a_cache_nothing_is_counted() -> None:
    with TailMetrics(None, "toy", "1.0") as metrics:
        metrics.served("relu1", "fp32", 300, 0.25, 1.5)
        metrics.flush()
        assert metrics._thread is None
