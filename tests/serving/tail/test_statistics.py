"""Statistics reach the store; a store that fails costs no prediction."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys.polling import until
from toys.serving import Ask, Worker, ask_of, head_of, scores_of, tensor_request, whole

from isplit_plugin.advice import ImportanceRows
from isplit_plugin.network import CapturedNetwork
from isplit_plugin.schema import Manifest
from isplit_plugin.traffic import Store
from isplit_plugin.wire import decode_response


def _ask(manifest: Manifest, values: np.ndarray, point: str, **fields: Any) -> Ask:
    request = tensor_request(values, point, network_hash=manifest.network_hash, **fields)
    return ask_of(request)


def test_a_worker_makes_the_default_store_and_its_folder(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ISPLIT_STORE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    worker = Worker(model_dir)
    path = tmp_path / "state" / "isplit" / "isplit-store.sqlite3"
    until(path.exists)
    worker.close()
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_worker_makes_its_model_known_before_any_traffic(
    worker: Worker, manifest: Manifest, store_url: str
) -> None:
    until(lambda: worker.handler.describe()["statistics"]["queued"] == 0)

    def known() -> bool:
        with Store(store_url) as store:
            return [n.model for n in store.networks()] == ["toy"] and store.networks()[
                0
            ].has_profile

    until(known)
    with Store(store_url) as store:
        assert store.manifest("toy").deployed == manifest.deployed


def test_what_was_served_and_its_importance(
    worker: Worker, manifest: Manifest, net: CapturedNetwork, store_url: str
) -> None:
    torch.manual_seed(8)
    x = torch.randn(4, 3, 16, 16)
    worker(
        _ask(
            manifest,
            head_of(net, "relu1", x[:3]),
            "relu1",
            head_ms=6.0,
            uplink_ms=9.0,
            rtt_ms=42.0,
            queue_ms=1.5,
            group="lab",
        )
    )
    worker(_ask(manifest, x[3:].numpy(), "input"))
    broken = Ask(b"x", {})
    worker(broken)
    until(lambda: worker.handler.describe()["statistics"]["sampler_computed"] == 4)
    worker.close()
    split, direct = (
        net.importance_from("relu1", torch.from_numpy(head_of(net, "relu1", x[:3]))),
        net.importance(x[3:]),
    )
    with Store(store_url) as store:
        view = store.view(manifest.network_hash)
        mean0 = store.mean0(manifest.network_hash)
    served = {r.cut.split_point: r for r in view.served}
    assert (served["relu1"].requests, served["input"].requests) == (3, 1)
    assert served["relu1"].head.mean_ms == 2.0  # three images in 6 ms
    assert served["relu1"].uplink.mean_ms == 3.0
    assert served["relu1"].rtt.mean_ms == 42.0
    assert served["relu1"].queue.mean_ms == 1.5
    assert served["input"].rtt.count == 0
    row_of: dict[tuple[str, int], tuple[ImportanceRows, int]] = {
        (rows.source, int(class_id)): (rows, row)
        for rows in view.importance
        for row, class_id in enumerate(rows.class_ids)
    }
    for source, offline in (("tail", split), ("input", direct)):
        for class_id in set(offline.target.tolist()):
            rows, at = row_of[source, class_id]
            expected = offline.values[offline.target == class_id]
            known = np.isfinite(expected[0])
            np.testing.assert_array_equal(rows.count[at], known * len(expected))
            mean = mean0[known] + rows.sum1[at][known] / rows.weight[at][known]
            np.testing.assert_allclose(mean, expected.mean(axis=0)[known], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("uplink_ms", [1e-3, 1e6, math.nan])
def test_an_uplink_that_nobody_has_is_not_counted(
    worker: Worker, manifest: Manifest, net: CapturedNetwork, store_url: str, uplink_ms: float
) -> None:
    """A body of 1 KB in a thousandth of a millisecond, or in a quarter of an hour, or unknown."""
    values = np.tile(head_of(net, "relu1", torch.zeros(1, 3, 16, 16)), (16, 1, 1, 1))
    worker(_ask(manifest, values, "relu1", uplink_ms=uplink_ms))
    worker.close()
    with Store(store_url) as store:
        (row,) = store.view(manifest.network_hash).served
    assert row.requests == 16
    assert row.uplink.count == 0


def test_a_round_trip_that_nobody_waits_for_is_not_counted(
    worker: Worker, manifest: Manifest, net: CapturedNetwork, store_url: str
) -> None:
    values = head_of(net, "relu1", torch.zeros(1, 3, 16, 16))
    worker(_ask(manifest, values, "relu1", rtt_ms=70_000.0, queue_ms=1e6))
    worker.close()
    with Store(store_url) as store:
        (row,) = store.view(manifest.network_hash).served
    assert (row.requests, row.rtt.count, row.queue.count) == (1, 0, 0)


@pytest.mark.parametrize(
    "url", ["sqlite:////proc/no/such/place.db", "nonsense://x", "postgresql+psycopg://h:1/x"]
)
def test_a_store_that_fails_costs_neither_load_nor_predictions(
    model_dir: Path,
    manifest: Manifest,
    net: CapturedNetwork,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
) -> None:
    monkeypatch.setenv("ISPLIT_STORE", url)
    worker = Worker(model_dir)
    x = torch.randn(1, 3, 16, 16)
    for _ in range(3):
        [reply] = worker(_ask(manifest, head_of(net, "relu1", x), "relu1", scores=True))
        got = decode_response(reply.body, None)
        np.testing.assert_allclose(scores_of(got), whole(net, x), rtol=0, atol=1e-6)
    worker.close()


def test_without_statistics_the_tail_serves(
    model_dir: Path,
    manifest: Manifest,
    net: CapturedNetwork,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ImportError("no SQLAlchemy\nhere")

    monkeypatch.setattr("isplit_plugin.traffic.Recorder", broken)
    worker = Worker(model_dir)
    assert "isplit: no statistics: ImportError: no SQLAlchemy here" in caplog.text
    [reply] = worker(_ask(manifest, head_of(net, "relu1", torch.zeros(1, 3, 16, 16)), "relu1"))
    assert reply.status == 200
    assert worker.handler.describe()["statistics"] == {}
    worker.close()


def test_a_backlog_is_dropped_and_counted_but_answered(
    worker: Worker, manifest: Manifest, net: CapturedNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    recorder = worker.handler._statistics._recorder
    recorder._max_queue = 0
    [reply] = worker(_ask(manifest, head_of(net, "relu1", torch.zeros(2, 3, 16, 16)), "relu1"))
    assert reply.status == 200
    assert worker.handler.describe()["statistics"]["dropped"] == 2
    worker.handler._metrics.flush()
    assert any(
        "isplit_observations_dropped_total.Count:2|" in r.getMessage() for r in caplog.records
    )
