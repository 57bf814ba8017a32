"""Exits from the tail's worker to the endpoint's to a device, in TorchServe's own worker code."""

from __future__ import annotations

import base64
import json
import re
import runpy
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import requests
import torch
import yaml
from toys.client import SlowRuntime
from toys.exit_network import CLASSES, UNSEEN, exit_network
from toys.exit_photos import photos_of
from toys.pages import undocumented
from toys.polling import until
from toys.probing import Bridge, bridge
from toys.serving import (
    PREPROCESSING,
    Ask,
    Worker,
    answer_of,
    ask_of,
    profile_of,
    tensor_request,
    unpack,
)

from isplit_plugin.adaptive import LinkFilter, RatedOption
from isplit_plugin.cli import main
from isplit_plugin.client import AdaptiveClient, DeviceExits, SplitClient
from isplit_plugin.exits import new_keys
from isplit_plugin.schema import Cut, Prediction
from isplit_plugin.serving.packaging import Built, package
from isplit_plugin.terminal import exits_text
from isplit_plugin.traffic import Store

CUT = "relu1:uint8"
KNOWN = (0, 1, 2, 3)


@dataclass(frozen=True)
class Packaged:
    """What is served, and a photo of each class."""

    built: Built
    prototypes: np.ndarray


@dataclass
class Served:
    """A tail, an endpoint, and the operator's keys."""

    bridge: Bridge
    packaged: Packaged
    keys: tuple[Path, Path]
    store: Path
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))
    clients: list[SplitClient] = field(default_factory=list)

    def client(self, **options: Any) -> SplitClient:
        made = SplitClient(
            self.bridge.url,
            **{
                "model": "toy",
                "head": self.packaged.built.bundle,
                "cut": CUT,
                "exit_key": self.keys[1],
                **options,
            },
        )
        self.clients.append(made)
        return made

    def photo(self, class_id: int) -> np.ndarray:
        return photos_of(self.packaged.prototypes[class_id], 1, self.random)[0]

    def send(self, client: SplitClient, classes: list[int]) -> list[Prediction]:
        return [client.predict(self.photo(class_id)) for class_id in classes]

    def list_exits(self) -> dict[str, Any]:
        answer = requests.get(f"{self.bridge.url}/predictions/isplit/1.0/exits/toy", timeout=30)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def alive(self) -> dict[str, Any] | None:
        versions = [v for row in self.list_exits()["exits"] for v in row["versions"]]
        return next((v for v in versions if v["state"] == "alive"), None)

    def until_released(self, client: SplitClient) -> None:
        """Traffic until the client has a release with all classes."""
        exits = exits_of(client)

        def released() -> bool:
            self.send(client, [*KNOWN] * 8)
            released_exit = exits.released(Cut.parse(CUT))
            return released_exit is not None and released_exit.classes == KNOWN

        until(released)


def exits_of(client: SplitClient) -> DeviceExits:
    assert client.exits is not None
    return client.exits


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    net, prototypes = exit_network()
    torch.manual_seed(3)
    nbytes = {("relu1", "uint8"): 780.0}
    profile = profile_of(net, torch.randn(12, 3, 16, 16), classes=CLASSES, nbytes=nbytes)
    built = package(
        net,
        profile=profile,
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        deployed=["relu1"],
        codecs=["uint8"],
        out_dir=tmp_path_factory.mktemp("model_store"),
    )
    return Packaged(built, prototypes)


@pytest.fixture(scope="module")
def served(packaged: Packaged, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose exits are released, and its first client."""
    folder = tmp_path_factory.mktemp("served")
    keys = new_keys(folder / "exit.key")
    settings = {
        "tail": {"sampling": 0.0, "exits": {"enabled": True, "sampling": 1.0, "flush_s": 0.1}},
        "endpoint": {
            "exit_key_file": str(keys[0]),
            "exits": {"min_photos": 30, "tolerance": 0.2, "check_s": 0.1},
        },
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISPLIT_SETTINGS", str(folder / "settings.yaml"))
        patch.setenv("ISPLIT_STORE", f"sqlite:///{folder / 'store.db'}")
        tail = Worker(unpack(packaged.built.archive, folder / "tail"))
        endpoint = Worker(unpack(packaged.built.endpoint, folder / "endpoint"))
    with bridge(tail, endpoint) as port:
        made = Served(port, packaged, keys, folder / "store.db")
        client = made.client()
        assert {p.path for p in made.send(client, [*KNOWN] * 8)} == {"server"}
        made.until_released(client)
        yield made
        for opened in made.clients:
            opened.close()
    endpoint.close()
    tail.close()


def test_released_classes_are_answered_on_the_device_and_others_are_sent(served: Served) -> None:
    client = served.clients[0]
    exits = exits_of(client)
    answered: list[Prediction] = []

    def answer() -> bool:
        answered.extend(p for p in served.send(client, [*KNOWN] * 5) if p.path == "exit")
        return len(answered) > 40

    until(answer)
    version = exits.version(Cut.parse(CUT))
    for prediction in answered:
        assert (prediction.exit, prediction.bytes_sent, prediction.request_id) == (version, 0, "")
        assert 0.5 < prediction.probability <= 1
        assert len(prediction.top) == 1
    unseen = served.send(client, [UNSEEN] * 5)
    assert {p.path for p in unseen} == {"server"}
    # With some noise the full network itself takes one of 500 for another class.
    assert sum(p.class_id == UNSEEN for p in unseen) >= 4
    until(lambda: exits.counters()["audited"] > 0)
    (advised,) = client.recommendation().exits
    assert advised.version == version
    assert advised.share > 0.5
    alive = served.alive()
    assert alive is not None
    until(lambda: (served.alive() or alive)["classes"][0]["audited"] > 0)
    for row in alive["classes"]:
        assert row["state"] == "released"
        assert row["missing"] == 0
        assert row["share"] > 0.5


def test_an_adaptive_client_reckons_with_what_its_exit_answers(served: Served) -> None:
    """A request takes a second over this link, the whole network 200 ms: the exit is the fastest."""
    plain = served.clients[0].runtime
    assert plain is not None
    client = served.client(runtime=SlowRuntime(plain, 200.0))
    app = AdaptiveClient(
        client,
        tolerance=0.3,
        exploration=0.0,
        link=LinkFilter(0.01, 1000.0),
    )
    advice = app.wait_for_advice(60.0)
    assert advice is not None
    # Nobody took the cut, and its exit is there all the same.
    until(lambda: exits_of(client).released(Cut.parse(CUT)) is not None)

    def split() -> RatedOption:
        rows = app.explain().decision.options
        return next(row for row in rows if str(row.cut) == CUT)

    first = split().option
    assert first.exit is not None
    assert (first.exit.share, first.exit.seen) == (advice.exits[0].share, 0)
    assert first.exit.tolerance == 0.2
    assert "its exit answers at most" in str(app.explain())
    by_exit: list[Prediction] = []

    def answered() -> bool:
        predictions = [app.predict(served.photo(class_id)) for class_id in KNOWN]
        by_exit.extend(p for p in predictions if p.path == "exit")
        return len(by_exit) > 20

    until(answered)
    assert {str(p.cut) for p in by_exit} == {CUT}
    assert all(p.timings.exit_ms > 0 for p in by_exit)
    seen = split().option
    assert seen.exit is not None
    assert seen.exit.seen > 20
    assert seen.exit.share > 0.5
    assert exits_of(client).wait(60.0)
    assert exits_of(client).counters()["audited"] > 0
    app.close()


def test_an_exit_beyond_the_tolerance_only_watches(served: Served) -> None:
    app = AdaptiveClient(served.client(), tolerance=0.1, exploration=0.0)
    assert app.wait_for_advice(60.0) is not None
    exits = exits_of(app.client)
    until(lambda: exits.released(Cut.parse(CUT)) is not None)
    predictions = [app.predict(served.photo(index % 4)) for index in range(8)]
    assert "exit" not in {prediction.path for prediction in predictions}
    assert "are together above 10.00%" in str(app.explain())
    assert exits.counters()["answered"] == 0
    app.close()


def test_with_raw_scores_no_cut_is_taken_for_its_exit(served: Served) -> None:
    app = AdaptiveClient(served.client(raw_scores=True), tolerance=0.3, exploration=0.0)
    assert app.wait_for_advice(60.0) is not None
    until(lambda: exits_of(app.client).released(Cut.parse(CUT)) is not None)
    rows = {str(row.cut): row.option for row in app.explain().decision.options}
    assert rows[CUT].exit is not None
    assert rows[CUT].exit_share == 0
    assert "does not answer: answers with raw_scores come from the server" in str(app.explain())
    app.close()


def test_batches_and_raw_scores_are_sent_as_usual(served: Served) -> None:
    client = served.clients[0]
    both = client.predict_batch([served.photo(0), served.photo(1)])
    assert [prediction.path for prediction in both] == ["server", "server"]
    with_scores = served.client(raw_scores=True)
    exits = exits_of(with_scores)
    until(lambda: bool(served.send(with_scores, [0])) and exits.counters()["watched"] > 3)
    prediction = with_scores.predict(served.photo(0))
    assert prediction.path == "server"
    assert prediction.scores is not None


def test_a_client_without_the_key_never_asks_for_exits(served: Served) -> None:
    plain = served.client(exit_key=None)
    assert {p.path for p in served.send(plain, [*KNOWN] * 4)} == {"server"}
    assert plain.exits is None


def test_photos_and_devices_that_are_missing_are_told(served: Served) -> None:
    served.clients[0].predict(served.photo(UNSEEN))

    def rows() -> dict[int, dict[str, Any]]:
        (row,) = served.list_exits()["exits"]
        return {of_class["class"]: of_class for of_class in row["evidence"]}

    until(lambda: UNSEEN in rows())
    evidence = rows()
    assert evidence[0]["missing_photos"] == 0
    assert evidence[UNSEEN]["missing_photos"] == 30 - evidence[UNSEEN]["photos"]
    listing = served.list_exits()
    assert listing["exits"][0]["versions"][0]["classes"]
    assert undocumented(listing, "endpoint.md") == set()
    text = exits_text(listing)
    assert "release" in text
    assert all(CLASSES[class_id] in text for class_id in KNOWN)


def test_a_statement_that_makes_no_sense_costs_no_prediction(served: Served) -> None:
    manifest = served.packaged.built.manifest
    counters = served.bridge.tail.handler._statistics.counters
    before = counters()["exits_refused"]
    for text in ("", "x", "0" * 16 + ":99:0", "\u00e9" * 200):
        request = tensor_request(
            np.zeros((1, 12, 8, 8), np.float32),
            "relu1",
            "uint8",
            network_hash=manifest.network_hash,
            exit_answer=text,
        )
        (reply,) = served.bridge.tail(ask_of(request))
        assert "." in answer_of(reply).release
    until(lambda: counters()["exits_refused"] >= before + 4)


def test_an_exit_that_is_not_alive_is_unknown(served: Served) -> None:
    path = f"{served.bridge.url}/predictions/isplit/1.0"
    for topic in ("exit", "release"):
        answer = requests.get(f"{path}/{topic}/toy/hash/{'0' * 64}", timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_name")
        answer = requests.get(f"{path}/{topic}/toy/hash/00", timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_query")
        answer = requests.get(f"{path}/{topic}/toy", timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_query")
    answer = requests.get(f"{path}/exits/toy/hash/{'0' * 64}", timeout=30)
    assert answer.status_code == 400


def test_of_an_exit_that_has_ended_the_last_release_is_served_alone(served: Served) -> None:
    path = f"{served.bridge.url}/predictions/isplit/1.0"
    ended = "e" * 64

    def status(topic: str) -> int:
        return requests.get(f"{path}/{topic}/toy/hash/{ended[:16]}", timeout=30).status_code

    with sqlite3.connect(served.store, timeout=60) as connection:
        connection.execute(
            "INSERT INTO isplit_exit (exit, split_point, ended, state, network, codec, content, "
            "created, expires, photos, number, release) SELECT ?, 'relu2', 'withdrawn', state, "
            "network, codec, content, created, expires, photos, number, release FROM isplit_exit "
            "WHERE ended = '' LIMIT 1",
            (ended,),
        )
        (release,) = connection.execute(
            "SELECT release FROM isplit_exit WHERE exit = ?", (ended,)
        ).fetchone()
    try:
        until(lambda: status("release") == 200)
        answer = requests.get(f"{path}/release/toy/hash/{ended[:16]}", timeout=30).json()
        assert answer["version_of_exit"] == ended
        assert base64.b64decode(answer["release"]) == release
        assert status("exit") == 404
    finally:
        with sqlite3.connect(served.store, timeout=60) as connection:
            connection.execute("DELETE FROM isplit_exit WHERE exit = ?", (ended,))
        until(lambda: status("release") == 404)


def test_a_device_with_another_key_never_exits(served: Served, tmp_path: Path) -> None:
    _, public = new_keys(tmp_path / "other.key")
    client = served.client(exit_key=public)
    exits = exits_of(client)
    until(lambda: bool(served.send(client, [1])) and exits.counters()["refused"] > 0)
    assert {prediction.path for prediction in served.send(client, [*KNOWN])} == {"server"}
    assert exits.counters()["answered"] == 0


@pytest.mark.parametrize("damage", ["mode", "content", "missing"])
def test_a_key_that_cannot_be_used_makes_no_exits_and_nothing_else_fails(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    private, _ = new_keys(tmp_path / "exit.key")
    if damage == "mode":
        private.chmod(0o644)
    elif damage == "content":
        private.write_text("no key")
    else:
        private.unlink()
    settings = {"endpoint": {"exit_key_file": str(private)}}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("ISPLIT_SETTINGS", str(tmp_path / "settings.yaml"))
    monkeypatch.setenv("ISPLIT_STORE", f"sqlite:///{tmp_path / 'store.db'}")
    with Store(tmp_path / "store.db") as store:
        store.put_network(packaged.built.manifest, None)
    endpoint = Worker(unpack(packaged.built.endpoint, tmp_path / "endpoint"))
    (reply,) = endpoint(Ask(None, {"url_path": "recommendations/toy"}))
    assert (reply.status, reply.json["exits"]) == (200, [])
    assert endpoint.handler.describe()["exits"] == "off: SecretError"
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("DROP TABLE isplit_exit")
    (reply,) = endpoint(Ask(None, {"url_path": "recommendations/toy/classes/1"}))
    assert (reply.status, reply.json["exits"]) == (200, [])
    (reply,) = endpoint(Ask(None, {"url_path": "exits/toy"}))
    assert (reply.status, reply.json["code"]) == (503, "store_unavailable")
    endpoint.close()


def test_the_commands_show_each_class(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("exits", "recommend"):
        assert main([command, "toy", "--url", served.bridge.url]) == 0
        text = capsys.readouterr().out
        assert "is alive, release" in text
        assert all(re.search(rf"{CLASSES[class_id]} +released", text) for class_id in KNOWN)
    assert main(["exits", "toy", "--url", served.bridge.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signing"] is True
    report = tmp_path / "exits.html"
    assert main(["exits", "toy", "--url", served.bridge.url, "--report", str(report)]) == 0
    page = report.read_text()
    assert all(CLASSES[class_id] in page for class_id in KNOWN)
    assert f"{len(KNOWN)} of " in page
    assert "<svg" in page
    capsys.readouterr()
    assert main(["exits", "other", "--url", served.bridge.url]) == 3
    assert "other" in capsys.readouterr().err


def test_a_damaged_state_is_reported_and_ends_no_other(served: Served) -> None:
    alive = served.alive()
    assert alive is not None

    def rows() -> dict[str, Any]:
        served.clients[0].predict(served.photo(UNSEEN))  # answers last until the store changes
        return {row["cut"]: row for row in served.list_exits()["exits"]}

    with sqlite3.connect(served.store, timeout=60) as connection:
        connection.execute(
            "INSERT INTO isplit_exit (exit, state, split_point, network, codec, content, created, "
            "expires, photos, number, release, ended) SELECT ?, ?, 'relu2', network, codec, "
            "content, created, expires, photos, number, release, ended FROM isplit_exit "
            "WHERE ended = '' LIMIT 1",
            ("d" * 64, '{"version": 1, "tolerance": 0.2, "classes": {"0": {"bin": "x"}}}'),
        )
    try:
        until(lambda: "relu2:uint8" in rows())
        (damaged,) = rows()["relu2:uint8"]["versions"]
        assert damaged["state"] == "damaged"
        assert "expected the state of an exit" in damaged["reason"]
        (whole,) = [v for v in rows()[CUT]["versions"] if v["exit"] == alive["exit"]]
        assert whole["state"] == "alive"
        advised = {str(row.cut): row for row in served.clients[0].recommendation().exits}
        assert advised["relu2:uint8"].share == 0
        assert advised[CUT].share > 0.5
    finally:
        with sqlite3.connect(served.store, timeout=60) as connection:
            connection.execute("DELETE FROM isplit_exit WHERE exit = ?", ("d" * 64,))
        until(lambda: "relu2:uint8" not in rows())


def test_what_exits_save_is_what_a_sent_request_costs(served: Served) -> None:
    until(lambda: any(row["audited"] for row in (served.alive() or {"classes": []})["classes"]))
    (row,) = served.list_exits()["exits"]
    assert row["sent_bytes"] > 700  # the activation alone has 768 values
    assert row["sent_ms"] > 0
    (version,) = [v for v in row["versions"] if v["state"] == "alive"]
    assert version["tolerance"] == 0.2
    assert 0.5 < version["share"] <= 1
    for of_class in version["classes"]:
        assert of_class["ms_saved"] == pytest.approx(of_class["exits"] * row["sent_ms"])
        not_sent = max(0.0, of_class["exits"] - of_class["audited"])
        assert of_class["bytes_saved"] == pytest.approx(not_sent * row["sent_bytes"])


@pytest.fixture
def photos(served: Served, tmp_path: Path) -> list[str]:
    """Files of each known class."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        image = PIL.Image.fromarray(served.photo(KNOWN[number % 4]))
        image.save(folder / f"{number:02}.png")
    return [str(path) for path in sorted(folder.iterdir())]


def test_predict_says_whether_the_device_or_the_server_answered(
    served: Served, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    head = str(served.packaged.built.bundle)
    words = ["predict", *photos, "--model", "toy", "--head", head, "--url", served.bridge.url]
    words += ["--cut", CUT]
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["path"] for row in rows} == {"server"}
    key = ["--exit-key", str(served.keys[1])]
    assert main([*words, *key, "--json"]) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    here = [row for row in rows if row["path"] == "exit"]
    assert len(here) > 6
    assert {row["bytes_sent"] for row in here} == {0}
    assert f"exit at {CUT}: 4 classes are released" in printed.err
    assert main([*words, *key]) == 0
    printed = capsys.readouterr()
    assert f"answered here by the exit at {CUT}" in printed.out
    assert re.search(r"^\d+ of 12 photos answered by the exit$", printed.out, re.MULTILINE)


def test_predict_at_a_cut_without_an_exit_sends_and_says_so(
    served: Served, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    head = str(served.packaged.built.bundle)
    words = ["predict", photos[0], "--model", "toy", "--head", head, "--url", served.bridge.url]
    assert main([*words, "--cut", "input:file", "--exit-key", str(served.keys[1])]) == 0
    printed = capsys.readouterr()
    assert "exit at input:file: nothing is released" in printed.err
    assert "0 of 1 photos answered by the exit" in printed.out
    assert main([*words, "--exit-key", photos[0]]) == 3
    assert "key" in capsys.readouterr().err


def test_the_example_takes_the_key(
    served: Served,
    photos: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "phone.token").write_text("token\n")
    words = ["device_app.py", str(Path(photos[0]).parent), "--url", served.bridge.url]
    words += ["--model", "toy", "--head", str(served.packaged.built.bundle), "--cut", CUT]
    words += ["--device-token-file", str(tmp_path / "phone.token"), "--tolerance", "0.3"]
    monkeypatch.setattr(sys, "argv", [*words, "--exit-key", str(served.keys[1])])
    app = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "device_app.py"))
    app["main"]()
    printed = capsys.readouterr().out
    assert "12 classified, 0 not" in printed
    assert "its exit answers" in printed
