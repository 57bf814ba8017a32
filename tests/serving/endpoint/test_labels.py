"""Labels at the endpoint: a secret of their own, many at once, each refused alone; and what the
endpoint tells then.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import advice as toys
from toys.context import Context
from toys.pages import DOCS, blocks

from isplit_plugin.advice import Constraints, Query
from isplit_plugin.advice.intervals import wilson
from isplit_plugin.device_tokens import new_secret, read_secret
from isplit_plugin.errors import from_json
from isplit_plugin.schema import Cut, Observation
from isplit_plugin.serving.endpoint.routes import ROUTES
from isplit_plugin.serving.endpoint.service import Endpoint
from isplit_plugin.traffic import MAX_LABELS, Delta, Store

AT = 1e9
Post = Callable[..., tuple[int, Any]]


def observation(number: int, **changes: Any) -> Observation:
    values: dict[str, Any] = {
        "request_id": f"r{number}",
        "cut": Cut("b", "uint8"),
        "class_id": number % 3,
        "confidence": 0.9,
        "bytes_received": 500,
        "decode_ms": 0.2,
        "tail_ms": 8.0,
        "at": AT,
    }
    return Observation(**{**values, **changes})


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = new_secret(tmp_path / "labels.secret")
    monkeypatch.setenv("ISPLIT_LABEL_SECRET_FILE", str(path))
    return read_secret(path).decode()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("ISPLIT_STORE", str(tmp_path / "store.db"))
    with Store(tmp_path / "store.db") as opened:
        opened.put_network(toys.manifest(), toys.profile())
        delta = Delta(opened.mean0(toys.HASH), opened.half_life_s, 3, keep_requests=True)
        for number in range(60):
            delta.add_observation(observation(number))
        opened.add(toys.HASH, delta)
        yield opened


@pytest.fixture
def endpoint(store: Store, secret: str) -> Iterator[Endpoint]:
    made = Endpoint(Context())
    yield made
    made.close()


@pytest.fixture
def post(endpoint: Endpoint) -> Post:
    def send(body: Any = None, path: str = "", **headers: str) -> tuple[int, Any]:
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        context = Context(told | ({"url_path": path} if path else {}))
        row = {} if body is None else {"body": body}
        (answer,) = endpoint.handle([row], context)
        return context.status, json.loads(answer)

    return send


def labels(*pairs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"request_id": request_id, "class": class_id} for request_id, class_id in pairs]


def test_labels_are_joined_and_the_answer_says_how(post: Post, secret: str) -> None:
    status, body = post({"labels": labels(("r0", 0), ("r1", "owl")), "token": secret})
    assert status == 200
    assert body == {
        "labelled": 2,
        "refused": 0,
        "labels": [
            {"request_id": "r0", "model": "toy", "class": 0, "predicted": 0, "correct": True},
            {"request_id": "r1", "model": "toy", "class": 2, "predicted": 1, "correct": False},
        ],
    }


@pytest.mark.parametrize("name", ["isplit-label-token", "Isplit-Label-Token", "ISPLIT-LABEL-TOKEN"])
def test_the_secret_may_come_as_a_header(post: Post, secret: str, name: str) -> None:
    status, body = post(json.dumps({"labels": labels(("r0", 0))}).encode(), **{name: secret})
    assert (status, body["labelled"]) == (200, 1)


@pytest.mark.parametrize("token", [None, "", "wrong", "ünïcode", "0" * 64])
def test_a_wrong_secret_is_refused_before_anything_is_looked_at(
    post: Post, store: Store, token: str | None
) -> None:
    revision = store.revision()
    for items in (labels(("r0", 0)), "no list", []):
        status, body = post({"labels": items, "token": token})
        assert (status, body["code"]) == (403, "bad_label_secret")
        assert "expected the secret of labels" in body["error"]
        assert type(from_json(body, status=status)).__name__ == "LabelSecretError"
    assert store.revision() == revision


def test_the_devices_secret_is_not_that_of_labels(
    store: Store, secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = new_secret(tmp_path / "devices.secret")
    monkeypatch.setenv("ISPLIT_SECRET_FILE", str(devices))
    endpoint = Endpoint(Context())
    context = Context()
    endpoint.handle(
        [{"body": {"labels": labels(("r0", 0)), "token": read_secret(devices).decode()}}], context
    )
    endpoint.close()
    assert context.status == 403


def test_without_a_secret_there_are_no_labels(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ISPLIT_LABEL_SECRET_FILE", raising=False)
    endpoint, context = Endpoint(Context()), Context()
    (answer,) = endpoint.handle([{"body": {"labels": labels(("r0", 0)), "token": ""}}], context)
    endpoint.close()
    assert context.status == 403
    assert "this endpoint has none" in answer


def test_a_new_secret_needs_no_restart(post: Post, secret: str, tmp_path: Path) -> None:
    (tmp_path / "labels.secret").write_text("another secret of labels\n")
    assert post({"labels": labels(("r0", 0)), "token": secret})[0] == 403
    assert post({"labels": labels(("r0", 0)), "token": "another secret of labels"})[0] == 200
    (tmp_path / "labels.secret").chmod(0o644)
    status, body = post({"labels": labels(("r1", 0)), "token": "another secret of labels"})
    assert (status, body["code"]) == (422, "bad_secret")


def test_bad_labels_do_not_harm_their_neighbours(post: Post, secret: str) -> None:
    items: list[Any] = [
        {"request_id": "r0", "class": 99},
        {"request_id": "never", "class": 0},
        {"request_id": "r0"},
        "r0",
        {"request_id": "r0", "class": 0, "more": 1},
        {"request_id": "", "class": 0},
        {"request_id": "r" * 300, "class": 0},
        {"request_id": 7, "class": 0},
        {"request_id": "r0", "class": True},
        {"request_id": "r0", "class": 0.0},
        {"request_id": "r0", "class": None},
        {"request_id": "r0", "class": 10**500},
        {"request_id": "r0", "class": 0},
        {"request_id": "r0", "class": 1},
        {"request_id": "r3", "class": "cat"},
    ]
    status, body = post({"labels": items, "token": secret})
    assert (status, body["labelled"], body["refused"]) == (200, 2, 13)
    codes = [row.get("code") for row in body["labels"]]
    assert codes == [
        "unknown_class",
        "unknown_request",
        *["bad_query"] * 10,
        None,
        "labelled_before",
        None,
    ]
    assert all(
        "expected" in row["error"] or "known" in row["error"]
        for row in body["labels"]
        if "error" in row
    )


@pytest.mark.parametrize(
    "items", [[], {}, "r0", 7, None, labels(*[(f"r{i}", 0) for i in range(MAX_LABELS + 1)])]
)
def test_a_call_is_a_list_of_1_to_1000(post: Post, secret: str, items: Any) -> None:
    status, body = post({"labels": items, "token": secret})
    assert (status, body["code"]) == (400, "bad_query")
    assert "1 to 1000" in body["error"]


def test_a_thousand_at_once(post: Post, store: Store, secret: str) -> None:
    delta = Delta(store.mean0(toys.HASH), store.half_life_s, 3, keep_requests=True)
    for number in range(1000, 2000):
        delta.add_observation(observation(number))
    store.add(toys.HASH, delta)
    status, body = post(
        {"labels": labels(*[(f"r{i}", 1) for i in range(1000, 2000)]), "token": secret}
    )
    assert (status, body["labelled"], body["refused"]) == (200, 1000, 0)
    assert sum(row["correct"] for row in body["labels"]) == sum(
        i % 3 == 1 for i in range(1000, 2000)
    )


def test_fields_that_are_none_of_a_label_call_are_refused(post: Post, secret: str) -> None:
    for extra in ({"model": "toy"}, {"token": 7}):
        status, body = post({"labels": labels(("r0", 0)), "token": secret, **extra})
        assert (status, body["code"]) == (400, "bad_query")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["request_id", "class", "x"]), inner)
    ),
    max_leaves=12,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(items=_JSON)
def test_whatever_comes_is_answered(post: Post, secret: str, items: Any) -> None:
    status, body = post({"labels": items, "token": secret})
    assert status in (200, 400)
    assert ("labels" in body) == (status == 200)


# ---------------------------------------------------------------------- what the endpoint tells


def test_measured_accuracy_by_point_codec_and_class(post: Post, secret: str) -> None:
    # 20 requests of each class at b:uint8; of class 0, 10 are labelled and 8 of them right; of
    # class 1, 5 and 5.
    sent = [(f"r{3 * i}", 0 if i < 8 else 1) for i in range(10)] + [
        (f"r{3 * i + 1}", 1) for i in range(5)
    ]
    assert post({"labels": labels(*sent), "token": secret})[1]["labelled"] == 15
    status, body = post(path="accuracy/toy")
    assert status == 200
    (row,) = body["accuracy"]
    assert (row["cut"], row["split_point"], row["codec"]) == ("b:uint8", "b", "uint8")
    assert (row["predictions"], row["labelled"], row["correct"]) == pytest.approx((60, 15, 13))
    assert row["accuracy"] == pytest.approx(13 / 15)
    assert [(c["class"], c["label"]) for c in row["classes"]] == [(0, "cat"), (1, "dog")]
    cat = row["classes"][0]
    assert (cat["accuracy"], cat["accuracy_low"], cat["accuracy_high"]) == pytest.approx(
        (0.8, *wilson(0.8, 10))
    )
    one = post(path="accuracy/toy/classes/1")[1]["accuracy"]
    assert [(c["class"], c["accuracy"]) for c in one[0]["classes"]] == [(1, 1.0)]
    assert one[0]["predictions"] == pytest.approx(20)
    assert post(path="accuracy/toy/classes/2")[1]["accuracy"] == []
    assert post(path="accuracy/toy/group/nobody")[1]["accuracy"] == []
    assert post(path="accuracy/toy/classes/3")[0] == 404


def test_labels_outrank_the_profile_where_both_rivals_have_enough(
    post: Post, store: Store, secret: str
) -> None:
    # The profile holds d:uint8 for always right. Labels: 55 % there, 99 % for what is sent as it
    # is.
    delta = Delta(store.mean0(toys.HASH), store.half_life_s, 3, keep_requests=True)
    sent = []
    for number in range(1000):
        cut = Cut("d", "fp32" if number % 2 else "uint8")
        right = number % 100 < 55 if number % 2 == 0 else number % 100 != 1
        delta.add_observation(observation(10_000 + number, cut=cut, class_id=0))
        sent.append((f"r{10_000 + number}", 0 if right else 1))
    store.add(toys.HASH, delta)
    before = post(path="recommendations/toy/classes/0")[1]
    (row,) = (row for row in before["cuts"] if row["cut"] == "d:uint8")
    assert row["agreement_source"] == "profile"
    assert row["verdict"] != "inaccurate"
    assert post({"labels": labels(*sent), "token": secret})[1]["labelled"] == 1000
    after = post(path="recommendations/toy/classes/0")[1]
    (loser,) = (row for row in after["cuts"] if row["cut"] == "d:uint8")
    assert (loser["verdict"], loser["agreement_source"]) == ("inaccurate", "live labels")
    assert "live labels: 0.5" in loser["reason"]
    assert loser["agreement"] == pytest.approx(1 - (0.99 - 0.55), abs=0.03)
    assert after["revision"] != before["revision"]


def test_groups_are_listed_and_a_group_above_the_cap_is_other(post: Post, store: Store) -> None:
    assert [g["group"] for g in post(path="groups/toy")[1]["groups"]] == ["all"]
    delta = Delta(store.mean0(toys.HASH), store.half_life_s, 3)
    for number in range(20):
        delta.add_observation(observation(number, group=f"g{number:02d}"))
    store.add(toys.HASH, delta)
    status, body = post(path="groups/toy")
    names = [g["group"] for g in body["groups"]]
    assert (status, body["requests"]) == (200, 80)
    assert "other" in names
    assert len(names) == 18  # 16 by name
    assert not any(g["signed"] for g in body["groups"])
    assert sum(g["share"] for g in body["groups"]) == pytest.approx(1)
    kept = next(n for n in names if n.startswith("g"))
    assert post(path=f"recommendations/toy/group/{kept}")[1]["group"] == kept
    lost = next(f"g{i:02d}" for i in range(20) if f"g{i:02d}" not in names)
    answer = post(path=f"recommendations/toy/group/{lost}")[1]
    assert (answer["group"], answer["observations"]) == (
        "other",
        sum(f"g{i:02d}" not in names for i in range(20)),
    )


def test_changes_are_listed_newest_first(post: Post) -> None:
    assert post(path="changes/toy")[1]["changes"] == []
    answer = post(path="recommendations/toy")[1]
    body = post(path="changes/toy")[1]
    assert (body["model"], body["group"]) == ("toy", "all")
    assert body["changes"][-1]["kind"] == "start"
    assert answer["standing"]["cut"] == answer["cut"] == body["changes"][0]["after"]
    assert answer["standing"]["changes"] == len(body["changes"])
    for path in ("changes/none", "groups/none", "accuracy/none"):
        assert post(path=path)[0] == 404


def test_the_help_page_lists_the_new_routes(post: Post) -> None:
    routes = post(path="help")[1]["routes"]
    for wanted in ("accuracy/<model>", "groups/<model>", "changes/<model>", "with labels"):
        assert any(wanted in route for route in routes), wanted


def test_a_bad_policy_is_told_at_load(store: Store) -> None:
    from isplit_plugin.errors import ServingError

    with pytest.raises(ServingError, match="dwell_s"):
        Endpoint(SimpleNamespace(model_yaml_config={"isplit": {"dwell_s": -1}}))


def test_the_documentation_lists_every_route_and_field() -> None:
    text = (DOCS / "reference" / "endpoint.md").read_text()
    for route in ROUTES:
        assert f"`{route}`" in text, route
    for field in (*(f.name for f in fields(Constraints)), *(f.name for f in fields(Query))):
        assert f"`{field}`" in text, field
    for example in blocks(text, "json"):
        assert (
            "..." in example or '"standing":' in example or json.loads(" ".join(example.split()))
        ), example


def test_while_another_writer_holds_the_store_labels_may_be_sent_again(
    post: Post, secret: str, tmp_path: Path
) -> None:
    labels = {"labels": [{"request_id": "r1", "class": 1}], "token": secret}
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, body = post(labels)
    assert (status, body["code"]) == (503, "store_busy")
    assert "try again" in body["error"]
    assert "details" not in body
    assert post(labels)[1]["labelled"] == 1
