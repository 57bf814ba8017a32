"""The endpoint behind a real TorchServe: how paths, query strings and bodies arrive is TorchServe's
business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from toys import advice as toys

from isplit_plugin.client import fetch_recommendation
from isplit_plugin.errors import QueryError, UnknownClassError, UnknownModelError
from isplit_plugin.schema import Recommendation
from isplit_plugin.serving.launcher import TorchServe
from isplit_plugin.serving.packaging import build_endpoint_archive
from isplit_plugin.traffic import Store


class Server:
    def __init__(self, url: str, store: Path) -> None:
        self.url, self.store = url, store
        self.session = requests.Session()

    def get(self, path: str, **kwargs: Any) -> tuple[int, Any]:
        return self._read(self.session.get(self.url + path, timeout=60, **kwargs))

    def post(self, path: str, **kwargs: Any) -> tuple[int, Any]:
        return self._read(self.session.post(self.url + path, timeout=60, **kwargs))

    @staticmethod
    def _read(response: requests.Response) -> tuple[int, Any]:
        assert response.headers["content-type"].startswith("application/json")
        return response.status_code, response.json()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("endpoint")
    store = folder / "store.sqlite3"
    with Store(store) as opened:
        opened.put_network(toys.manifest(), toys.profile())
    models = folder / "models"
    models.mkdir()
    build_endpoint_archive(models)
    with TorchServe(model_store=models, store=f"sqlite:///{store}", tokens=False) as running:
        yield Server(running.inference_url, store)


PATH = "/predictions/isplit/1.0/"


def test_paths(server: Server) -> None:
    status, body = server.get(PATH + "recommendations/toy/classes/2,0")
    assert status == 200
    assert [c.class_id for c in Recommendation.from_json(body).classes] == [0, 2]
    assert server.get(PATH + "models")[1]["models"][0]["model"] == "toy"
    assert [c["label"] for c in server.get(PATH + "classes/toy")[1]["classes"]] == list(toys.LABELS)
    assert len(server.get(PATH + "curves/toy/classes/1")[1]["curves"][0]["curve"]) == 5


def test_encoded_paths_reach_the_same_names(server: Server) -> None:
    assert server.get(PATH + "recommendations/toy/classes/2%2C0")[0] == 200
    assert server.get(PATH + "recommendations/%2e%2e/classes/1")[0] in (400, 404)
    assert server.get(PATH + "recommendations/no%20body")[0] == 404


def test_help_at_the_bare_path(server: Server) -> None:
    for path in ("/predictions/isplit", "/predictions/isplit/1.0", "/models/isplit/invoke"):
        status, body = server.get(path)
        assert (status, "routes" in body) == (200, True), path


def test_query_string_and_json_body_give_the_same_bytes_as_the_path(server: Server) -> None:
    limits = {"bandwidth_mbps": 8, "rtt_ms": 5, "max_head_macs": 500}
    _, by_query = server.get(
        "/models/isplit/invoke", params={"model": "toy", "class": "0,2", **limits}
    )
    asked = {"model": "toy", "classes": [0, 2], "constraints": limits}
    _, by_json = server.post("/predictions/isplit", json=asked)
    _, by_bytes = server.post("/predictions/isplit", data=json.dumps(asked).encode())
    assert by_query == by_json == by_bytes
    assert by_json["use"]["split_point"] == "d"


def test_the_client_reads_the_answers_and_raises_the_errors(server: Server) -> None:
    answer = fetch_recommendation(
        server.url, "toy", classes=[2, 0], rtt_ms=5, bandwidth_mbps=8, objective="bytes"
    )
    assert (answer.cut.split_point, [c.class_id for c in answer.classes]) == ("output", [0, 2])
    assert fetch_recommendation(server.url, "toy").best_candidate == "d"
    with pytest.raises(UnknownModelError, match="unknown model 'nobody'; known: toy"):
        fetch_recommendation(server.url, "nobody")
    with pytest.raises(UnknownClassError, match="known: 0, 1, 2"):
        fetch_recommendation(server.url, "toy", classes=[9])
    with pytest.raises(QueryError, match=r"constraints.rtt_ms"):
        fetch_recommendation(server.url, "toy", rtt_ms=-1)


def test_errors_are_ours(server: Server) -> None:
    for path, status, code in (
        (PATH + "recommendations/nobody", 404, "unknown_model"),
        (PATH + "recommendations/toy/classes/9", 404, "unknown_class"),
        (PATH + "nowhere", 404, "unknown_name"),
        ("/models/isplit/invoke?modell=toy", 400, "bad_query"),
    ):
        got, body = server.get(path)
        assert (got, body["code"]) == (status, code)
    got, body = server.post("/predictions/isplit", json={"model": "toy", "classes": "1"})
    assert (got, body["code"]) == (400, "bad_query")
    got, body = server.post("/predictions/isplit", data=b"\x00\xff not json")
    assert (got, body["code"]) == (400, "bad_query")
    # What curl -d sends without a content type.
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    got, body = server.post("/predictions/isplit", data=b'{"model": "toy"}', headers=form)
    assert (got, body["code"]) == (400, "bad_query")


def test_many_at_once(server: Server) -> None:
    def ask(i: int) -> tuple[int, Any]:
        return server.get(PATH + ("recommendations/toy" if i % 2 else "recommendations/nobody"))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(40)))
    assert [status for status, _ in answers] == [404, 200] * 20
    assert len({json.dumps(body) for status, body in answers if status == 200}) == 1


def test_store_outage_is_503_and_the_worker_lives(server: Server) -> None:
    away = server.store.with_suffix(".away")
    server.store.rename(away)
    server.store.mkdir()
    try:
        status, body = server.get(PATH + "recommendations/toy")
        assert (status, body["code"]) == (503, "store_unavailable")
        assert server.get("/predictions/isplit")[0] == 200
    finally:
        server.store.rmdir()
        away.rename(server.store)
    assert server.get(PATH + "recommendations/toy")[0] == 200
