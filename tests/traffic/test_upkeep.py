"""`isplit store`: what it says of a store, what it writes, and what it makes smaller."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys.postgres import Postgres
from toys.traffic import CLASSES, NETWORK, manifest, observation, profile, sample

from isplit_plugin.cli import main
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Manifest
from isplit_plugin.traffic import Delta, Store
from isplit_plugin.traffic.aggregates.moments import DEFAULT_HALF_LIFE_S, landmark

MEAN0 = profile().mean0
AT = 1e9


def filled(store: Store) -> None:
    for by_device in (False, True):
        one = Delta(MEAN0, DEFAULT_HALF_LIFE_S, CLASSES, by_device=by_device)
        values = [[1.0, 2.0, 3.0, 4.0], [np.nan, 2.0, 3.0, 5.0]]
        for curve, device in zip(values, "ab", strict=True):
            one.add_importance(sample(curve, class_id=2, group="g", at=AT, device=device))
        one.add_observation(observation(2, at=AT, tail_ms=2.0))
        store.add(NETWORK, one)
    late = Delta(MEAN0, DEFAULT_HALF_LIFE_S, CLASSES)
    late.add_observation(observation(2, at=AT + 20_000))
    store.add(NETWORK, late)  # closes the hour of the devices


def test_check_tells_schema_rows_and_size(
    url: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(store)
    assert main(["store", "check", "--store", url, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sound"] is True
    assert report["schema"] == store.schema
    assert report["revision"] == store.revision()
    assert report["bytes"] == store.size() > 10_000
    assert (
        report["rows"]["importance"],
        report["rows"]["device_sketch"],
        report["rows"]["device_bucket"],
    ) == (2, 2, 0)
    assert [n["model"] for n in report["networks"]] == ["toy"]
    assert main(["store", "check", "--store", url]) == 0
    text = capsys.readouterr().out
    assert "schema" in text
    assert "importance" in text


def test_export_can_be_added_up_without_us(
    url: str, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(store)
    assert main(["store", "export", "--store", url]) == 0
    text = capsys.readouterr().out
    out = tmp_path / "store.jsonl"
    assert main(["store", "export", "--store", url, "--output", str(out)]) == 0
    assert out.read_text() == text
    assert [p.name for p in tmp_path.iterdir() if "jsonl" in p.name] == ["store.jsonl"]
    rows = [json.loads(line) for line in text.splitlines()]
    assert rows[0]["format"] == 1
    assert rows[0]["schema"] == store.schema
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in rows[1:]:
        tables.setdefault(row["table"].removeprefix("isplit_"), []).append(row)
    (network,) = tables["network"]
    assert network["mean0"] == MEAN0.tolist()
    assert (
        Profile.from_bytes(base64.b64decode(network["profile"])).to_bytes() == profile().to_bytes()
    )
    assert Manifest.from_json(tables["model"][0]["manifest"]) == manifest()
    whole = next(row for row in tables["importance"] if row["start"] == 0)
    epoch, w = landmark(AT, DEFAULT_HALF_LIFE_S)
    _, w_hour = landmark(AT // 3600 * 3600, DEFAULT_HALF_LIFE_S)
    assert (whole["count"], whole["epoch"]) == (2, epoch)
    assert whole["sum1"] == pytest.approx(
        (w + w_hour) * (np.array([1.0, 2, 3, 4]) - MEAN0), rel=1e-12
    )
    assert [row["devices"] for row in tables["device_sketch"]] == [1, 1]
    assert sum(row["requests"] for row in tables["served"]) == 3
    tail = [count for row in tables["served"] for _, count in row["times"]["tail"]["up_to_ms"]]
    assert sum(tail) == 3
    bound = tables["served"][0]["times"]["tail"]["up_to_ms"][0][0]
    assert 2.0 <= bound <= 2.0 * 1.05


def test_compact_gives_room_back_and_keeps_what_is_told(
    url: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(store)
    many = Delta(MEAN0, DEFAULT_HALF_LIFE_S, CLASSES)
    for group in range(15):
        for hour in range(100):
            many.add_observation(
                observation(0, at=AT + 3600 * hour, group=f"g{group}", class_id=None)
            )
    store.add(NETWORK, many)
    before = store.view(NETWORK)
    assert main(["store", "compact", "--store", url, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bytes"] <= report["bytes_before"]
    after = store.view(NETWORK)
    assert after.observations == before.observations
    assert [r.requests for r in after.served] == [r.requests for r in before.served]
    store.check()
    filled(store)  # it can still be written to


def test_compact_shrinks_a_file(path: Path, url: str, store: Store) -> None:
    def put(version: int) -> None:
        store.put_network(manifest(f"n{version}", version=str(version), classes=400), None)

    for version in range(60):
        put(version)
    with store._db.write() as (connection, _):
        connection.exec_driver_sql("DELETE FROM isplit_model WHERE version <> '1.0'")
    before, after = store.compact()
    assert after < before / 2


@pytest.mark.parametrize("action", ["check", "export", "compact"])
def test_a_store_that_is_not_there_is_said_and_not_made(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", action, "--store", f"sqlite:///{tmp_path / 'x.db'}"]) == 5
    assert "expected an existing file, found none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_is_no_store(
    postgres: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    with postgres.database() as url:
        assert main(["store", "check", "--store", url]) == 5
    assert "found none of its tables" in capsys.readouterr().err


def test_a_damaged_store_is_an_error(
    path: Path, url: str, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(store)
    with store._db.write() as (connection, _):
        connection.exec_driver_sql("UPDATE isplit_importance SET moments = x'00'")
    assert main(["store", "check", "--store", url, "--json"]) == 5
    assert json.loads(capsys.readouterr().err)["code"] == "store_unavailable"
    out = tmp_path / "out.jsonl"
    assert main(["store", "export", "--store", url, "--output", str(out)]) == 5
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))
