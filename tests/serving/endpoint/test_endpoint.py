"""The endpoint through TorchServe's own worker code (`ts.service.Service`), without Java."""

from __future__ import annotations

import gc
import json
import math
import re
import sqlite3
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import advice as toys
from toys.pages import undocumented

from handlers import recommendation_handler
from isplit_plugin.errors import QueryError, from_json
from isplit_plugin.schema import Cut, Observation, Recommendation
from isplit_plugin.serving.endpoint import service as endpoint_module
from isplit_plugin.serving.endpoint.question import read_question
from isplit_plugin.serving.endpoint.service import Endpoint
from isplit_plugin.serving.endpoint.snapshot import view_bytes
from isplit_plugin.serving.endpoint.standing import standing_answer
from isplit_plugin.serving.settings import default_store_url
from isplit_plugin.traffic import Delta, ImportanceSample, Store
from isplit_plugin.traffic.rows import tables

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # TorchServe forgets to close its version file
    from ts.protocol import otf_message_handler
    from ts.service import Service

    gc.collect()

Ask = Callable[..., list[tuple[int, dict[str, str], Any]]]


class Metrics:
    """What a worker needs of TorchServe's metrics cache."""

    request_ids: Any = None

    def add_time(self, *_: Any, **__: Any) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite3") as opened:
        opened.put_network(toys.manifest(), toys.profile())
        yield opened


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Send a batch through a worker; each request is (path, parts, headers).

    Returns (status, headers, JSON).
    """
    monkeypatch.setenv("ISPLIT_STORE", str(tmp_path / "store.sqlite3"))
    sent: dict[str, Any] = {}

    def response(ret: Any, *_: Any, context: Any = None) -> Any:
        sent["ret"], sent["context"] = ret, context
        return b""

    monkeypatch.setattr("ts.service.create_predict_response", response)
    service = Service(
        "isplit",
        str(tmp_path),
        None,
        recommendation_handler.handle,
        None,
        8,
        metrics_cache=Metrics(),
    )
    service.set_cl_socket(None)
    recommendation_handler.handle(None, service.context)

    def send(*requests: Mapping[str, Any]) -> list[tuple[int, dict[str, str], Any]]:
        batch = []
        for i, request in enumerate(requests):
            headers = dict(request.get("headers", {}))
            if "path" in request:
                headers["url_path"] = request["path"]
            parts = request.get("parts", {})
            batch.append(
                {
                    "requestId": f"id-{i}".encode(),
                    "headers": [
                        {"name": k.encode(), "value": v.encode()} for k, v in headers.items()
                    ],
                    "parameters": [
                        {"name": k, "value": v, "contentType": "text/plain"}
                        for k, v in parts.items()
                    ],
                }
            )
        sent.clear()
        service.predict(batch)
        assert sent["context"] is not None, "the worker failed the whole batch"
        assert len(sent["ret"]) == len(requests)
        out = []
        for i, body in enumerate(sent["ret"]):
            assert sent["context"].get_response_content_type(i) == "application/json"
            out.append(
                (
                    sent["context"].get_response_status(i)[0],
                    sent["context"].get_response_headers(i),
                    load(body),
                )
            )
        return out

    yield send
    recommendation_handler._STATE.pop("endpoint").close()


def test_the_endpoint_makes_the_default_store_and_its_folder(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = tmp_path / "state" / "isplit" / "isplit-store.sqlite3"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    endpoint = recommendation_handler._STATE["endpoint"]
    settings = endpoint._settings.model_copy(update={"store": default_store_url()})
    monkeypatch.setattr(endpoint, "_settings", settings)
    assert one(ask, path="models") == (200, {"models": []})
    assert default.exists()


def load(body: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(body, parse_constant=refuse)


def one(ask: Ask, **request: Any) -> tuple[int, Any]:
    ((status, _, body),) = ask(request)
    return status, body


def test_contract_of_the_worker_is_the_real_one() -> None:
    # The fixture replaces the function that writes to the socket; its name must be the one Service
    # calls.
    assert (
        Service.predict.__globals__["create_predict_response"]
        is otf_message_handler.create_predict_response
    )


def test_bare_path_is_a_help_page_that_lists_the_routes(ask: Ask) -> None:
    for request in ({}, {"path": ""}, {"path": "/"}, {"path": "help"}, {"parts": {"body": b""}}):
        status, body = one(ask, **request)
        assert status == 200
        assert any("recommendations/<model>" in route for route in body["routes"])
        assert "POST /predictions/isplit" in body["routes"]


def test_models_lists_what_is_in_the_store(ask: Ask, store: Store) -> None:
    status, body = one(ask, path="models")
    assert status == 200
    assert body["models"] == [
        {
            "model": "toy",
            "version": "1.0",
            "network_hash": toys.HASH,
            "has_profile": True,
            "as_of": None,
            "current": True,
        }
    ]
    store.put_network(toys.manifest(model="other"), None)
    assert len(one(ask, path="models")[1]["models"]) == 2
    assert one(ask, path="models/toy")[1] == body


def test_classes_lists_ids_and_labels(ask: Ask, store: Store) -> None:
    status, body = one(ask, path="classes/toy")
    assert status == 200
    assert body["classes"] == [
        {"id": i, "label": c, "requests": 0, "share": 0.0} for i, c in enumerate(toys.LABELS)
    ]


def test_recommendation_by_path_is_readable_by_the_client(ask: Ask, store: Store) -> None:
    status, body = one(ask, path="recommendations/toy")
    assert status == 200
    assert undocumented(body, "endpoint.md") == set()
    answer = Recommendation.from_json(body)
    assert (answer.model, answer.version, answer.source, answer.observations) == (
        "toy",
        "1.0",
        "profile",
        0,
    )
    assert answer.reason.startswith("profile only: no traffic yet")
    assert str(answer.cut) == body["cut"] == body["use"]["cut"]
    assert (answer.use.split_point, answer.use.codec) == (
        body["use"]["split_point"],
        body["use"]["codec"],
    )
    assert answer.best_candidate == "d"


def test_the_three_ways_to_ask_give_the_same_bytes(ask: Ask, store: Store) -> None:
    asked = {"model": "toy", "classes": [2, 0]}
    answers = ask(
        {"path": "recommendations/toy/classes/0,2"},
        {"path": "recommendations/toy/classes/2,0,0"},
        {"parts": {"model": b"toy", "class": b"0,2"}},
        {"parts": {"model": "toy", "classes": "2,0"}},
        {"parts": {"body": asked}},
        {"parts": {"body": json.dumps(asked).encode()}},
        {
            "parts": {
                "body": bytearray(json.dumps({**asked, "group": "all", "version": None}).encode())
            }
        },
    )
    assert {status for status, _, _ in answers} == {200}
    assert len({json.dumps(body) for _, _, body in answers}) == 1
    assert [share["class_id"] for share in answers[0][2]["classes"]] == [0, 2]


def test_limits_reach_the_advice_from_query_string_and_json(ask: Ask, store: Store) -> None:
    limits = {"bandwidth_mbps": 8, "rtt_ms": 5, "max_head_macs": 500}
    (_, _, by_query), (_, _, by_json) = ask(
        {"parts": {"model": b"toy", **{k: str(v).encode() for k, v in limits.items()}}},
        {"parts": {"body": {"model": "toy", "constraints": limits}}},
    )
    assert by_query == by_json
    # d:uint8: head 4 + encode 0.5 + 100 bytes at 8 Mbit/s 0.1 + round trip 5 + decode 0.25 + tail 6
    assert by_json["use"]["cut"] == "d:uint8"
    assert by_json["use"]["latency_ms"] == pytest.approx(15.85)
    assert next(c for c in by_json["cuts"] if c["split_point"] == "output")["verdict"] == "violates"


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"path": "recommendations/nobody"}, 404, ["unknown model 'nobody'", "toy"]),
        ({"path": "recommendations/toy/version/9"}, 404, ["'9' of model 'toy'", "known: 1.0"]),
        ({"path": "recommendations/toy/classes/7"}, 404, ["unknown class '7'", "0, 1, 2"]),
        ({"path": "../../etc/passwd"}, 404, ["'..'", "recommendations/<model>"]),
        ({"path": "recommendations/../../etc"}, 400, ["'..'", "classes"]),
        ({"path": "recommendations"}, 400, ["model"]),
        ({"path": "recommendations/toy/classes"}, 400, ["value after 'classes'"]),
        ({"path": "recommendations/toy/classes/cat"}, 400, ["'cat'", "281,282"]),
        ({"path": "recommendations/toy/classes/1/classes/2"}, 400, ["classes", "twice"]),
        ({"path": "recommendations/toy/classes/" + ",".join(["1"] * 1500)}, 400, ["1 to 1000"]),
        ({"path": "recommendations/toy/colour/red"}, 400, ["'colour'", "classes"]),
        ({"path": "x" * 20_000}, 400, ["16384"]),
        ({"path": "models/toy/1.0"}, 404, ["models"]),
        ({"path": "models/cat"}, 404, ["unknown model 'cat'", "known: toy"]),
        ({"path": "curves/toy"}, 400, ["classes", "none"]),
        ({"parts": {"modell": b"toy"}}, 400, ["'modell'", "model"]),
        ({"parts": {"model": b"toy", "rtt_ms": b"soon"}}, 400, ["rtt_ms", "'soon'"]),
        ({"parts": {"model": b"toy", "rtt_ms": b"nan"}}, 400, ["constraints.rtt_ms", "nan"]),
        (
            {"parts": {"model": b"toy", "bandwidth_mbps": b"0"}},
            400,
            ["constraints.bandwidth_mbps", "from 1e-06"],
        ),
        ({"parts": {"model": b"\xff"}}, 400, ["model", "UTF-8"]),
        (
            {"parts": {"model": b"toy", "class": b"1", "classes": b"2"}},
            400,
            ["`class`", "`classes`"],
        ),
        ({"parts": {"body": b"model=toy"}}, 400, ["application/json"]),
        ({"parts": {"body": b'{"model": "toy", "constraints": {"rtt_ms": NaN}}'}}, 400, ["NaN"]),
        ({"parts": {"body": b"[" * 100_000}}, 400, ["body"]),
        ({"parts": {"body": b" " * 300_000}}, 400, ["262144"]),
        ({"parts": {"body": [1, 2]}}, 400, ["JSON object", "list"]),
        ({"parts": {"body": {"model": "toy", "shape": 1}}}, 400, ["'shape'", "constraints"]),
        ({"parts": {"body": {"model": 7}}}, 400, ["model", "'7'"]),
        ({"parts": {"body": {"model": "toy", "classes": []}}}, 400, ["classes", "got 0"]),
        ({"parts": {"body": {"model": "toy", "classes": "1"}}}, 400, ["classes", "list"]),
        ({"parts": {"body": {"model": "toy", "classes": [True]}}}, 400, ["classes", "True"]),
        ({"parts": {"body": {"model": "toy", "classes": [-1]}}}, 400, ["classes", "-1"]),
        ({"parts": {"body": {"model": "toy", "classes": [1.5]}}}, 400, ["classes", "1.5"]),
        ({"parts": {"body": {"model": "toy", "classes": [10**400]}}}, 400, ["classes"]),
        (
            {"parts": {"body": {"model": "toy", "rule": "best"}}},
            400,
            ["rule", "local-maxima", "'best'"],
        ),
        ({"parts": {"body": {"model": "toy", "mix": "asked"}}}, 400, ["mix", "classes"]),
        ({"parts": {"body": {"model": "toy", "group": "a\nb"}}}, 400, ["group"]),
        ({"parts": {"body": {"model": "toy", "constraints": 3}}}, 400, ["constraints", "int"]),
        (
            {"parts": {"body": {"model": "toy", "constraints": {"speed": 3}}}},
            400,
            ["'speed'", "rtt_ms"],
        ),
        (
            {"parts": {"body": {"model": "toy", "constraints": {"max_bytes": "3"}}}},
            400,
            ["constraints.max_bytes"],
        ),
        (
            {"parts": {"body": {"model": "toy", "constraints": {"max_bytes": 10**400}}}},
            400,
            ["constraints.max_bytes"],
        ),
        (
            {"path": "recommendations/toy", "parts": {"body": {"model": "other"}}},
            400,
            ["model", "'toy'", "'other'"],
        ),
    ],
)
def test_bad_questions_are_named_and_fail_alone(
    ask: Ask, store: Store, request_: dict[str, Any], status: int, says: list[str]
) -> None:
    before, bad, after = ask({"path": "models"}, request_, {"path": "recommendations/toy"})
    assert (before[0], after[0]) == (200, 200)
    assert bad[0] == status
    for word in says:
        assert word in bad[2]["error"]
    error = from_json(bad[2], status=bad[0])
    assert error.status == status
    if isinstance(error, QueryError):
        assert error.details["field"]


def test_store_that_is_away_answers_503_and_works_once_it_is_back(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    path.mkdir()
    status, body = one(ask, path="recommendations/toy")
    assert (status, body["code"]) == (503, "store_unavailable")
    assert one(ask, path="help")[0] == 200
    path.rmdir()
    with Store(path) as store:
        store.put_network(toys.manifest(), toys.profile())
    assert one(ask, path="recommendations/toy")[0] == 200


def test_damaged_store_answers_503(ask: Ask, store: Store, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store.sqlite3") as raw:
        raw.execute(f"UPDATE {tables.model.name} SET manifest = '{{}}'")  # noqa: S608
    raw.close()
    status, body = one(ask, path="recommendations/toy")
    assert (status, body["code"]) == (503, "store_unavailable")


def test_a_failure_of_advice_is_none_of_the_store(
    ask: Ask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("secret")

    monkeypatch.setattr(endpoint_module, "recommend", fail)
    status, body = one(ask, path="recommendations/toy/classes/0")
    assert (status, body["code"]) == (500, "internal")
    assert "secret" not in json.dumps(body)


def test_unexpected_failure_keeps_its_text_in_the_log(
    ask: Ask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(endpoint_module, "standing_answer", fail)
    bad, good = ask({"path": "recommendations/toy"}, {"path": "models"})
    assert (bad[0], good[0]) == (500, 200)
    assert "secret" not in json.dumps(bad[2])


def test_answers_are_kept_until_the_store_changes(
    ask: Ask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return standing_answer(*args, **options)

    monkeypatch.setattr(endpoint_module, "standing_answer", counted)
    first = one(ask, path="recommendations/toy")
    assert one(ask, path="recommendations/toy") == first
    assert len(calls) == 1
    store.put_network(toys.manifest(version="2.0"), toys.profile())
    status, body = one(ask, path="recommendations/toy/version/2.0")
    assert (status, body["version"], len(calls)) == (200, "2.0", 2)
    old = one(ask, path="recommendations/toy/version/1.0")[1]
    assert old["revision"] != first[1]["revision"]
    assert {**old, "revision": ""} == {**first[1], "revision": ""}


def test_the_revision_is_that_of_the_store_and_of_the_question(ask: Ask, store: Store) -> None:
    def revision(path: str) -> str:
        status, body = one(ask, path=path)
        assert status == 200
        return str(body["revision"])

    plain, of_class = "recommendations/toy", "recommendations/toy/classes/0"
    before = (revision(plain), revision(of_class))
    assert before[0] != before[1]
    assert (revision(plain), revision(of_class)) == before
    assert revision(f"{plain}/mix/live") == before[0]
    store.put_network(toys.manifest(), toys.profile())  # known already: nothing is written
    assert (revision(plain), revision(of_class)) == before
    delta = Delta(toys.profile().mean0, store.half_life_s, 3)
    delta.add_observation(observation(0))
    store.add(toys.HASH, delta)
    after = (revision(plain), revision(of_class))
    assert len({*before, *after}) == 4
    assert (revision(plain), revision(of_class)) == after


def test_another_question_at_the_same_revision_reads_nothing_again(
    ask: Ask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def read(*args: Any) -> Any:
            reads.append(name)
            return real(*args)

        return read

    for name in ("manifest", "profile", "view", "standing_snapshot"):
        monkeypatch.setattr(Store, name, noted(name, getattr(Store, name)))
    paths = [
        f"{topic}/toy/classes/{i}"
        for topic in ("recommendations", "curves", "accuracy")
        for i in range(3)
    ]
    paths += ["recommendations/toy", "recommendations/toy/group/nobody"]
    assert one(ask, path="recommendations/toy")[0] == 200
    reads.clear()
    answers = [one(ask, path=path) for path in paths]
    assert [status for status, _ in answers] == [200] * len(paths)
    assert reads == ["standing_snapshot"]  # of the group that was not asked for before
    delta = Delta(toys.profile().mean0, store.half_life_s, 3)
    delta.add_observation(observation(0, class_id=2, head_ms=20.0, tail_ms=4.0))
    store.add(toys.HASH, delta)
    after = one(ask, path="recommendations/toy/classes/2")[1]
    assert (after["observations"], after["as_of"]) == (1, AT)


def test_a_file_in_the_place_of_another_is_read_anew(
    ask: Ask, store: Store, tmp_path: Path
) -> None:
    before = one(ask, path="recommendations/toy/classes/0")[1]
    assert before["version"] == "1.0"
    writes = store.revision()
    with Store(tmp_path / "other.sqlite3") as other:
        other.put_network(toys.manifest(version="2.0"), toys.profile())
        assert other.revision() == writes
    store.close()
    for end in ("-wal", "-shm"):
        (tmp_path / f"store.sqlite3{end}").unlink(missing_ok=True)
    (tmp_path / "other.sqlite3").replace(tmp_path / "store.sqlite3")
    after = one(ask, path="recommendations/toy/classes/0")[1]
    assert after["version"] == "2.0"
    # As many writes, but another store.
    assert after["revision"].partition("-")[0] != before["revision"].partition("-")[0]


def test_answers_are_kept_in_the_bounded_cache(ask: Ask, store: Store) -> None:
    worker = recommendation_handler._STATE["endpoint"]
    for rtt in range(1, 600):
        assert one(ask, parts={"model": b"toy", "rtt_ms": str(rtt).encode()})[0] == 200
    assert worker.describe()["cached"] <= 512


def test_answers_of_older_revisions_take_no_memory(ask: Ask, store: Store) -> None:
    worker = recommendation_handler._STATE["endpoint"]
    kept = []
    for number in range(6):
        delta = Delta(store.mean0(toys.HASH), store.half_life_s, 3)
        delta.add_observation(observation(number))
        store.add(toys.HASH, delta)
        for rtt in range(20):
            link = {"rtt_ms": 1 + 20 * number + rtt}
            body = {"model": "toy", "constraints": link, "group": "north" if rtt % 2 else "all"}
            assert one(ask, parts={"body": body})[0] == 200
        described = worker.describe()
        kept.append((described["cached"], described["cached_bytes"]))
    assert {entries for entries, _ in kept[1:]} == {kept[0][0]}
    sizes = [nbytes for _, nbytes in kept]
    assert max(sizes) < 1.1 * min(sizes)


def test_the_cache_knows_what_its_values_take(store: Store) -> None:
    delta = Delta(store.mean0(toys.HASH), store.half_life_s, 500)
    for number in range(2000):
        cut = Cut("b", ("fp32", "uint8", "q4")[number % 3])
        delta.add_observation(observation(number, class_id=number % 500, cut=cut))
    store.add(toys.HASH, delta)
    store.view(toys.HASH, "all")  # what SQLAlchemy keeps of a query is none of the view
    gc.collect()
    tracemalloc.start()
    try:
        view = store.view(toys.HASH, "all")
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(view.outcomes) > 1000
    assert 0.5 * taken < view_bytes(view) < 2 * taken


def test_answer_too_large_for_torchserve_is_refused(
    ask: Ask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "MAX_ANSWER", 1000)
    status, body = one(ask, path="recommendations/toy")
    assert (status, body["code"]) == (413, "too_large")


def test_model_without_profile_is_answered(ask: Ask, tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite3") as store:
        store.put_network(toys.manifest(), None)
        status, body = one(ask, path="recommendations/toy")
    assert status == 200
    answer = Recommendation.from_json(body)
    assert "accuracy was never measured" in answer.reason
    assert (answer.confidence, answer.best_candidate) == (0.0, None)
    assert body["curve"][0]["cui"] is None


def test_curves_of_classes(ask: Ask, store: Store) -> None:
    status, body = one(ask, path="curves/toy/classes/1,2")
    assert status == 200
    assert [c["id"] for c in body["curves"]] == [1, 2]
    assert [p["split_point"] for p in body["curves"][0]["curve"]] == list(toys.NAMES)
    # Class 1 lies at the mean of all classes: shrinking leaves it where it is.
    assert [p["cui"] for p in body["curves"][0]["curve"]] == pytest.approx(list(toys.LEVEL))


def test_describe_is_answered_from_memory(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "store.sqlite3").mkdir()
    status, body = one(ask, headers={"describe": "True"})
    assert (status, body["endpoint"]) == (200, "isplit")


@pytest.mark.parametrize(
    "request_",
    [
        {"parts": {"body": b""}},
        {"parts": {"body": b"{}"}},
        {"parts": {"model": b"toy"}},
        {"headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        {"headers": {"content-type": "multipart/form-data; boundary=x"}},
        {"path": "recommendations/toy", "parts": {"body": b""}},
    ],
)
def test_a_client_of_the_inference_port_cannot_ask_for_the_counters(
    ask: Ask, store: Store, request_: dict[str, Any]
) -> None:
    headers = {"describe": "True", "Describe": "True", **request_.get("headers", {})}
    _, body = one(ask, **{**request_, "headers": headers})
    assert "answers" not in body


def test_no_answer_says_where_the_store_lies(
    ask: Ask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "store.sqlite3").mkdir()
    status, body = one(ask, path="recommendations/toy")
    assert (status, body["code"]) == (503, "store_unavailable")
    assert "details" not in body
    assert "sqlite" not in body["error"]
    assert str(tmp_path) not in body["error"]
    assert str(tmp_path) in caplog.text


def test_header_names_may_be_spelled_in_any_way(ask: Ask, store: Store) -> None:
    assert one(ask, headers={"URL_Path": "recommendations/toy"})[1]["model"] == "toy"


def test_store_is_named_by_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ISPLIT_STORE", raising=False)
    path = tmp_path / "configured.sqlite3"
    with Store(path) as store:
        store.put_network(toys.manifest(), toys.profile())

    class Context:
        model_yaml_config = {"isplit": {"store": str(path)}}  # noqa: RUF012

    worker = Endpoint(Context())
    answer = json.loads(worker.answer(read_question({}, {}, {"model": "toy"})))
    worker.close()
    assert answer["model"] == "toy"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_FIELD = st.sampled_from(
    ["model", "version", "classes", "group", "rule", "mix", "candidate_set", "constraints", "x"]
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    path=st.none() | st.text(max_size=40) | st.just("recommendations/toy"),
    row=st.dictionaries(st.text(max_size=6), st.binary(max_size=8), max_size=3)
    | st.builds(
        lambda body: {"body": body},
        _JSON | st.binary(max_size=30) | st.dictionaries(_FIELD, _JSON, max_size=4),
    )
    | st.builds(
        lambda more: {"body": {"model": "toy", **more}}, st.dictionaries(_FIELD, _JSON, max_size=3)
    ),
)
def test_whatever_comes_is_answered(
    ask: Ask, store: Store, path: str | None, row: dict[str, Any]
) -> None:
    request: dict[str, Any] = {"parts": row}
    if path is not None:
        try:
            path.encode()
        except UnicodeEncodeError:
            return
        request["path"] = path
    status, body = one(ask, **request)
    assert status in (200, 400, 404)
    if status != 200:
        assert body["error"]
        assert body["code"]


def test_live_traffic_changes_the_answer(ask: Ask, store: Store) -> None:
    before = one(ask, path="recommendations/toy")[1]
    mean0 = toys.profile().mean0
    delta = Delta(mean0, store.half_life_s, 3)
    for i in range(40):
        delta.add_observation(observation(i, class_id=2 if i % 4 else 0, head_ms=20.0, tail_ms=4.0))
    curve = 3.0 * toys.LEVEL
    curve[:3] = np.nan  # cut at d
    for _ in range(30):
        delta.add_importance(ImportanceSample(class_id=2, curve=curve, source="tail", at=AT))
    store.add(toys.HASH, delta)

    status, body = one(ask, path="recommendations/toy")
    after = Recommendation.from_json(body)
    assert status == 200
    assert after.revision != before["revision"]
    assert (after.mix, after.observations, after.as_of) == ("live", 40, AT + 39)
    assert after.source == "mixed"
    assert after.reason.startswith("40 live requests; ")
    assert [(c.label, round(c.weight, 2)) for c in after.classes] == [("owl", 0.75), ("cat", 0.25)]
    live = {p.split_point: (p.source, p.live_count) for p in after.curve}
    assert live == {
        "a": ("profile", 0),
        "b": ("profile", 0),
        "c": ("profile", 0),
        "d": ("mixed", 30),
        "e": ("mixed", 30),
    }
    # Devices are five times as slow as the profile's machine (20 ms for 4), the server is not (4
    # for 6): stay off them.
    assert next(c for c in after.cuts if c.split_point == "output").latency_ms == pytest.approx(
        50, rel=0.1
    )
    assert after.cut == Cut("input", "jpeg", 90)

    classes = one(ask, path="classes/toy")[1]["classes"]
    assert [c["requests"] for c in classes] == [10, 0, 30]
    by_group = Recommendation.from_json(one(ask, parts={"model": b"toy", "group": b"elsewhere"})[1])
    assert (by_group.observations, by_group.mix) == (0, "profile")
    assert "no traffic yet from group elsewhere" in by_group.reason


AT = 1_700_000_000.0


def test_the_reported_link_of_a_group_replaces_the_assumed_one(ask: Ask, store: Store) -> None:
    """Phones report 2 Mbit/s, 90 ms and a queue; devices of the group `lab` report nothing."""
    delta = Delta(store.mean0(toys.HASH), store.half_life_s, len(toys.LABELS))
    for i in range(40):
        # 1000 bytes at 2 Mbit/s take 4 ms; every fourth is a report of a slower moment.
        slow = i % 4 == 0
        delta.add_observation(
            observation(
                i,
                group="phones",
                bytes_received=1000,
                uplink_ms=16.0 if slow else 4.0,
                rtt_ms=300.0 if slow else 90.0,
                queue_ms=7.0,
                head_ms=12.0,
            )
        )
        delta.add_observation(observation(i, group="lab", head_ms=math.nan))
    store.add(toys.HASH, delta)

    def reason(group: str, **constraints: float) -> str:
        question = {"model": "toy", "group": group, "constraints": constraints}
        _, body = one(ask, parts={"body": json.dumps(question).encode()})
        return str(Recommendation.from_json(body).reason)

    phones = reason("phones")
    assert re.search(r"link (1\.9\d?|2|2\.0\d?) Mbit/s \(live\)", phones), phones
    assert re.search(r"(8[89]|9[0-2])(\.\d)? ms round trip \(live\)", phones), phones
    assert re.search(r"(6\.\d+|7|7\.\d+) ms in the server's queue \(live\)", phones), phones
    assert "devices report" in phones
    lab = reason("lab")
    assert "20 Mbit/s (assumed), 20 ms round trip (assumed)" in lab
    assert "the device is assumed to be as fast" in lab
    assert "queue" not in lab
    asked = reason("phones", rtt_ms=5.0)
    assert "(live), 5 ms round trip (asked)" in asked
    [row] = [row for row in store.view(toys.HASH, group="phones").served if row.rtt.count]
    assert row.rtt.low_ms <= row.rtt.median_ms < row.rtt.high_ms


def observation(i: int, **changes: Any) -> Observation:
    values: dict[str, Any] = {
        "request_id": str(i),
        "cut": Cut("d", "uint8"),
        "class_id": 0,
        "confidence": 0.9,
        "bytes_received": 100,
        "decode_ms": 0.25,
        "tail_ms": 6.0,
        "at": AT + i,
    }
    return Observation(**{**values, **changes})


def test_each_network_gets_its_own_answer(ask: Ask, store: Store) -> None:
    """A version that is only registered beside the first one changes nothing for anybody."""
    before = one(ask, path="recommendations/toy")[1]
    other = "sha256:second"
    store.put_network(
        toys.manifest(version="2.0", network_hash=other), toys.profile(network_hash=other)
    )
    plain = one(ask, path="recommendations/toy")[1]
    assert (plain["version"], plain["network_hash"]) == ("1.0", toys.HASH)
    assert plain["use"] == before["use"]
    ways: list[dict[str, Any]] = [
        {"path": f"recommendations/toy/network_hash/{other}"},
        {"parts": {"model": "toy", "network_hash": other}},
        {"parts": {"body": {"model": "toy", "network_hash": other}}},
    ]
    for way in ways:
        ((status, _, body),) = ask(way)
        assert (status, body["version"], body["network_hash"]) == (200, "2.0", other)
    for topic in ("classes", "accuracy", "groups", "changes"):
        for network in (toys.HASH, other):
            status, body = one(ask, path=f"{topic}/toy/network_hash/{network}")
            assert (status, body["network_hash"]) == (200, network)


def test_a_version_or_network_that_is_not_there_names_those_that_are(
    ask: Ask, store: Store
) -> None:
    store.put_network(toys.manifest(version="2.0", network_hash="sha256:second"), None)
    status, body = one(ask, path="recommendations/toy/version/3.0")
    assert (status, body["code"]) == (404, "unknown_version")
    assert "known: 1.0, 2.0" in body["error"]
    status, body = one(ask, path="recommendations/toy/network_hash/none")
    assert (status, body["code"], body["details"]) == (
        404,
        "unknown_version",
        {"known": ["1.0", "2.0"]},
    )
    status, body = one(ask, path=f"recommendations/toy/version/2.0/network_hash/{toys.HASH}")
    assert (status, body["code"]) == (409, "network_mismatch")
    ((status, _, body),) = ask({"parts": {"body": {"model": "toy/1.0"}}})
    assert (status, body["code"]) == (400, "bad_query")
    assert "`version`" in body["error"]
