"""Text and numbers that no client should send cost their sender a typed 4xx that names the field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import advice as toys
from toys.context import Context
from toys.hostile_json import NUMBERS, TEXTS, VALUES, objects

from isplit_plugin.advice import Constraints
from isplit_plugin.device_tokens import new_secret, read_secret
from isplit_plugin.errors import classes_by_code
from isplit_plugin.serving.endpoint.service import Endpoint
from isplit_plugin.traffic import Delta, Store

Post = Callable[..., tuple[int, Any]]

_PROPERTY = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = new_secret(tmp_path / "labels.secret")
    monkeypatch.setenv("ISPLIT_LABEL_SECRET_FILE", str(path))
    monkeypatch.setenv("ISPLIT_SECRET_FILE", str(new_secret(tmp_path / "device.secret")))
    return read_secret(path).decode()


@pytest.fixture
def post(tmp_path: Path, secret: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    """Send one row through the endpoint, as TorchServe hands it over."""
    monkeypatch.setenv("ISPLIT_STORE", str(tmp_path / "store.db"))
    with Store(tmp_path / "store.db") as store:
        store.put_network(toys.manifest(), toys.profile())
        delta = Delta(store.mean0(toys.HASH), store.half_life_s, 3)
        store.add(toys.HASH, delta)
    endpoint = Endpoint(Context())

    def send(row: Mapping[Any, Any], **headers: str) -> tuple[int, Any]:
        context = Context(headers)
        (answer,) = endpoint.handle([row], context)
        assert json.dumps(json.loads(answer), allow_nan=False).isascii()
        return context.status, json.loads(answer)

    yield send
    endpoint.close()


def _is_typed(status: int, body: Any) -> None:
    if status == 200:
        return
    assert 400 <= status < 500, body
    assert classes_by_code()[body["code"]].status == status
    assert body["error"]


_ODD = ["\ud800", "a\ud800", "a\0b", "line\nbreak", "\x1b[31m"]


@pytest.mark.parametrize("text", _ODD)
@pytest.mark.parametrize("field", ["model", "version", "group", "predictor", "rule", "mix"])
def test_text_of_a_question(post: Post, field: str, text: str) -> None:
    for extra in ({}, {"constraints": {"bandwidth_mbps": 2}}):
        status, body = post({"body": {"model": "toy", **extra, field: text}})
        assert (status, body["code"]) == (400, "bad_query")
        assert body["details"] == {"field": field}
        assert body["error"].startswith(f"{field}: expected")
    if "\ud800" not in text:
        status, body = post({"model": b"toy", field: text.encode()})
        assert (status, body["details"]) == (400, {"field": field})


@pytest.mark.parametrize("text", _ODD)
def test_text_of_labels(post: Post, secret: str, text: str) -> None:
    label = {"request_id": "r", "class": 0}
    for token in (text, f"{secret}{text}"):
        status, body = post({"body": {"labels": [label], "token": token}})
        assert (status, body["details"]) == (400, {"field": "token"})
        assert secret not in body["error"]
    status, body = post({"body": {"labels": [{**label, "request_id": text}], "token": secret}})
    assert (status, body["labels"][0]["details"]) == (200, {"field": "request_id"})


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
def test_the_class_of_a_label(post: Post, secret: str, text: str) -> None:
    labels = [{"request_id": "r", "class": text}]
    status, body = post({"body": {"labels": labels, "token": secret}})
    assert (status, body["labels"][0]["details"]) == (200, {"field": "class"})


@pytest.mark.parametrize("text", _ODD)
@pytest.mark.parametrize("field", ["ticket", "network", "device"])
def test_text_of_a_probe(post: Post, field: str, text: str) -> None:
    probe = {"ticket": "t", "values": [1.0], "network": "n", "class": 0, field: text}
    status, body = post({"body": {"probe": probe}})
    assert (status, body["code"]) == (400, "malformed_request")
    assert body["error"].startswith(f"probe: {field}:")


@pytest.mark.parametrize("body", ["\ud800", "abc", "", "[1]", '"\\ud800"'])
def test_a_body_that_is_one_string(post: Post, body: str) -> None:
    status, answer = post({"body": body})
    if body:
        assert (status, answer["details"]) == (400, {"field": "body"})
    else:
        assert status == 200  # as no body: the page of help


@pytest.mark.parametrize(
    "name",
    [
        "bandwidth_mbps",
        "rtt_ms",
        "max_latency_ms",
        "max_bytes",
        "max_head_macs",
        "accuracy_tolerance",
        "device_slowdown",
    ],
)
def test_numbers_that_nothing_real_has(post: Post, name: str) -> None:
    for number in (1e308, -1.0, float("nan"), float("inf"), 10**400, "1", True, [1]):
        status, body = post({"body": {"model": "toy", "constraints": {name: number}}})
        assert (status, body["details"]) == (400, {"field": f"constraints.{name}"})


def test_the_largest_and_the_least_numbers_are_answered(post: Post) -> None:
    limits = {
        "bandwidth_mbps": (1e-6, 1e9),
        "rtt_ms": (0, 1e9),
        "device_slowdown": (1e-6, 1e6),
        "max_latency_ms": (1e-6, 1e12),
        "max_bytes": (0, 1e18),
    }
    for end in (0, 1):
        constraints = {name: ends[end] for name, ends in limits.items()}
        status, _ = post({"body": {"model": "toy", "constraints": constraints}})
        assert status == 200


_NAMES = st.sampled_from(
    ["model", "version", "classes", "group", "rule", "mix", "candidate_set", "predictor", "x"]
)
_CONSTRAINTS = st.dictionaries(
    st.sampled_from([*Constraints.__dataclass_fields__, "y"]), NUMBERS | TEXTS, max_size=3
)


@_PROPERTY
@given(
    more=objects(_NAMES | TEXTS),
    constraints=st.none() | _CONSTRAINTS | VALUES,
    model=st.just("toy") | TEXTS,
)
def test_questions(post: Post, more: dict[str, Any], constraints: Any, model: str) -> None:
    _is_typed(*post({"body": {"model": model, **more, "constraints": constraints}}))


@_PROPERTY
@given(body=VALUES)
def test_bodies(post: Post, body: Any) -> None:
    _is_typed(*post({"body": body}))


@_PROPERTY
@given(path=st.text(max_size=30) | st.lists(TEXTS, max_size=5).map("/".join))
def test_paths(post: Post, path: str) -> None:
    _is_typed(*post({"body": b""}, url_path=path))
    _is_typed(*post({}, url_path=f"recommendations/toy/{path}"))


@_PROPERTY
@given(
    items=VALUES | st.lists(objects(st.sampled_from(["request_id", "class", "x"])), max_size=3),
    token=st.just(None) | VALUES,
)
def test_labels(post: Post, secret: str, items: Any, token: Any) -> None:
    for sent in (secret, token):
        status, body = post({"body": {"labels": items, "token": sent}})
        _is_typed(status, body)
        for result in body.get("labels", []):
            if "code" in result:
                assert classes_by_code()[result["code"]].status < 500


@_PROPERTY
@given(
    probe=VALUES
    | objects(st.sampled_from(["ticket", "values", "network", "class", "device"])).map(
        lambda more: {"ticket": "isplit1.e30.x", "values": [0.5], **more}
    )
)
def test_probes(post: Post, probe: Any) -> None:
    _is_typed(*post({"body": {"probe": probe}}))
    _is_typed(*post({"body": {"probe": probe, "\ud800": 1}}))
