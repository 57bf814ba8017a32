"""Several servers on one store, workers that are killed under load, and a store that goes away
while they serve.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import torch
from toys.live_server import Live, Model
from toys.polling import until
from toys.postgres import Postgres
from toys.serving import CLASSES, PREPROCESSING, head_of, profile_of, tensor_request, toy_network

from isplit_plugin.serving.launcher import TorchServe
from isplit_plugin.serving.packaging import package
from isplit_plugin.traffic import Store
from isplit_plugin.wire import http_headers

pytestmark = pytest.mark.slow
WORKERS = 4
CLIENTS = 4


def bodies(model: Model, number: int = 24, seed: int = 11) -> list[tuple[bytes, dict[str, str]]]:
    """Requests of devices, cut at either point."""
    x = torch.randn(number, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    found = []
    for i in range(number):
        point, codec = (("relu1", "fp32"), ("relu2", "uint8"))[i % 2]
        values = head_of(model.net, point, x[i : i + 1])
        request = tensor_request(values, point, codec, network_hash=model.manifest.network_hash)
        body, length = request.encode()
        found.append((body, http_headers(length)))
    return found


# ---------------------------------------------------------------------- two servers, one store


def test_two_servers_on_one_store_give_one_recommendation(
    toy: Model, model_store: Path, postgres: Postgres, tmp_path: Path
) -> None:
    archives: dict[str, Any] = {"model_store": model_store, "models": ["toy.mar", "isplit.mar"]}
    with (
        postgres.database() as url,
        TorchServe(**archives, store=url) as one,
        TorchServe(**archives, store=url) as two,
        Store(url) as store,
    ):
        servers = (one, two)
        lives = [Live(server, url, toy, toy) for server in servers]
        network = toy.manifest.network_hash
        for live, number in zip(lives, (30, 20), strict=True):
            for i in range(number):
                body, headers = bodies(toy)[i % 24]
                answer = live.post("predictions/toy", body, headers=headers)
                assert answer.status_code == 200, answer.text
        until(lambda: store.view(network).observations == 50)
        # sampled importance comes later than the count of its request
        until(
            lambda: sum(float(r.count[:, -1].sum()) for r in store.view(network).importance) == 50
        )
        first, second = (live.get("predictions/isplit/1.0/recommendations/toy") for live in lives)
        assert first.status_code == second.status_code == 200, first.text
        assert first.json() == second.json()
        assert first.json()["observations"] == 50
        assert first.json()["source"] != "profile"
        before = first.json()["revision"]
        body, headers = bodies(toy)[0]
        assert lives[1].post("predictions/toy", body, headers=headers).status_code == 200
        until(lambda: store.view(network).observations == 51)

        def asked() -> list[dict[str, Any]]:
            return [live.get("predictions/isplit/1.0/recommendations/toy").json() for live in lives]

        until(lambda: (found := asked())[0] == found[1] and found[0]["observations"] == 51)
        assert asked()[0]["revision"] != before
        assert asked()[0]["as_of"] == store.view(network).as_of


# ---------------------------------------------------------------------- killed under load


@dataclass
class Load:
    """Clients that send all the time; each request may be tried once more."""

    server: TorchServe
    model: Model
    answered: list[float] = field(default_factory=list)
    retried: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def client(self, number: int) -> None:
        asked = bodies(self.model, seed=number)
        url = f"{self.server.inference_url}/predictions/{self.model.manifest.model}"
        with requests.Session() as session:
            turn = 0
            while not self.stop.is_set():
                body, headers = asked[turn % len(asked)]
                turn += 1
                told = ""
                for _ in range(2):
                    at = time.monotonic()
                    try:
                        headers = {**headers, "Authorization": f"Bearer {self.server.token()}"}
                        answer = session.post(url, body, headers=headers, timeout=60)
                    except requests.RequestException as error:
                        told = f"{type(error).__name__}: {error}"
                    else:
                        if answer.status_code == 200:
                            self.answered.append(time.monotonic())
                            break
                        told = f"{answer.status_code} {answer.text[:200]}"
                    self.retried.append(at)
                else:
                    self.failed.append(told)
                self.stop.wait(0.02)

    def near(self, kill: float) -> int:
        """How many answers came in the last second before a kill, or just then."""
        return sum(kill - 1.0 <= at <= kill + 0.5 for at in self.answered)

    def is_quiet(self, kill: float) -> bool:
        """Whether more answers came after a kill than might be lost with it."""
        return sum(at > kill + 0.5 for at in self.answered) > 2 * self.near(kill)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.client, args=(n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()


@dataclass(frozen=True)
class Busy:
    """A server with four workers of one model, and its SQLite store."""

    server: TorchServe
    model: Model
    path: Path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def pids(self) -> list[int]:
        """Processes of the model's workers that are alive and ready."""
        return [pid for pid in self.server.status("busy").pids if psutil.pid_exists(pid)]

    def advice(self) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.server.token()}"}
        url = f"{self.server.inference_url}/predictions/isplit/1.0/recommendations/busy"
        return requests.get(url, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Busy]:
    folder = tmp_path_factory.mktemp("busy")
    net = toy_network()
    torch.manual_seed(3)
    profile = profile_of(
        net, torch.randn(12, 3, 16, 16), model="busy", nbytes={("relu2", "uint8"): 130.0}
    )
    config = {
        "minWorkers": WORKERS,
        "maxWorkers": WORKERS,
        "isplit": {"sampling": 0.05, "cpu_budget": 0.05},
    }
    built = package(
        net,
        model="busy",
        profile=profile,
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        deployed=["relu1", "relu2"],
        config=config,
        out_dir=folder,
    )
    path = folder / "store.db"
    with TorchServe(
        model_store=folder, models=["busy.mar", "isplit.mar"], store=f"sqlite:///{path}"
    ) as server:
        found = Busy(server, Model(net, profile, built), path)
        until(lambda: len(found.pids()) == WORKERS)
        yield found


def test_workers_killed_under_load_cost_a_second_of_statistics_and_no_prediction(
    busy: Busy,
) -> None:
    network = busy.model.manifest.network_hash
    with Store(busy.url) as store:
        before = store.view(network).observations
        load = Load(busy.server, busy.model)
        kills: list[float] = []
        told: list[dict[str, Any]] = []
        with load.running():
            until(lambda: len(load.answered) >= 50)
            while len(kills) < 5:
                until(lambda: len(busy.pids()) >= 2)
                victim = busy.pids()[len(kills) % 2]
                os.kill(victim, signal.SIGKILL)
                kills.append(time.monotonic())
                answer = busy.advice()
                assert answer.status_code == 200, answer.text
                told.append(answer.json())
                # Most of what is answered must be far from a kill, or this would show nothing.
                until(lambda: time.monotonic() - kills[-1] > 4 and load.is_quiet(kills[-1]))
        assert load.failed == []
        # A request fails once, and only where a worker was killed just then.
        for at in load.retried:
            assert any(-60 < at - kill < 60 for kill in kills), (at, kills)
        assert len(load.retried) <= CLIENTS * len(kills)

        # What a worker answered in its last second may be lost with it. There is no telling which
        # of all answers were its own; of three or four workers one has hardly given more than half.
        lost = sum(load.near(kill) for kill in kills) // 2
        answered = len(load.answered)
        assert lost < answered / 4  # else this would show nothing
        until(lambda: store.view(network).observations - before >= answered - lost)
        until(lambda: settled(busy, store, network))
        counted = store.view(network).observations - before
        assert answered - lost <= counted <= answered + len(load.retried)
        store.check()

        assert [a["observations"] for a in told] == sorted(a["observations"] for a in told)
        assert len({(a["cut"], a["best_candidate"]) for a in told}) == 1

        def agree() -> bool:  # the importance of a sampled request may still come
            final, again = busy.advice().json(), busy.advice().json()
            live = store.view(network)
            of_store = (live.observations, live.as_of)
            return final == again and (final["observations"], final["as_of"]) == of_store

        until(agree)


def settled(busy: Busy, store: Store, network: str) -> bool:
    """Whether nothing is written any more."""
    before = store.revision(network)
    time.sleep(2.5)  # two flushes
    return store.revision(network) == before


def test_a_store_locked_for_ten_seconds_and_deleted_costs_no_prediction(busy: Busy) -> None:
    network = busy.model.manifest.network_hash
    load = Load(busy.server, busy.model)
    with Store(busy.url) as store:
        before = store.view(network).observations
        with load.running():
            until(lambda: store.view(network).observations > before)
            other = sqlite3.connect(busy.path, isolation_level=None, timeout=60)
            other.execute("BEGIN IMMEDIATE")
            begun, frozen = time.monotonic(), store.view(network).observations
            while time.monotonic() - begun < 10:
                answer = busy.advice()
                assert answer.status_code == 200, answer.text  # a reader needs no lock
                time.sleep(0.5)
            assert store.view(network).observations == frozen
            until(lambda: sum(at > begun for at in load.answered) > 20)
            during = sum(at > begun for at in load.answered)
            other.execute("ROLLBACK")
            other.close()
            until(
                lambda: store.view(network).observations >= frozen + during
            )  # all of it is written afterwards
            # The database last: what is made anew in its place meanwhile stays whole.
            for file in sorted(busy.path.parent.glob("store.db*"), reverse=True):
                file.unlink()
            until(busy.path.exists)
            deleted = len(load.answered)
            until(lambda: len(load.answered) > deleted + 20)
        assert load.failed == load.retried == []
    with Store(busy.url) as fresh:
        until(lambda: fresh.view(network).observations >= len(load.answered) - deleted)
        assert fresh.manifest("busy").network_hash == network
        fresh.check()
    until(lambda: busy.advice().status_code == 200)
