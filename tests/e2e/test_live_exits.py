"""Exits on a real TorchServe with two device processes: learned, proven, used, and withdrawn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from toys.exit_device import CUT, Device
from toys.exit_network import CLASSES, TWINS, UNSEEN, exit_network
from toys.live_server import Live, Model
from toys.polling import until
from toys.serving import PREPROCESSING, profile_of

from isplit_plugin.adaptive import LinkFilter
from isplit_plugin.cli import main
from isplit_plugin.client import AdaptiveClient, SplitClient
from isplit_plugin.exits import new_keys
from isplit_plugin.schema import Cut
from isplit_plugin.serving.launcher import TorchServe
from isplit_plugin.serving.packaging import package

KNOWN = [0, 1, 2, 3]
SETTINGS: dict[str, dict[str, Any]] = {
    "tail": {"sampling": 0.0, "exits": {"enabled": True, "sampling": 1.0, "flush_s": 0.1}},
    "endpoint": {"exits": {"min_photos": 30, "tolerance": 0.2, "check_s": 0.1, "contact_s": 600.0}},
}


@dataclass
class Fleet:
    """A server with exits, and the processes of two devices."""

    live: Live
    devices: list[Device]
    prototypes: np.ndarray
    exit_key: Path
    rounds: int = 0
    paths: list[str] = field(default_factory=list)

    def send(self, classes: list[int]) -> list[dict[str, Any]]:
        """A photo of each kind from both devices at once; every one gets an answer."""
        self.rounds += 1
        for number, device in enumerate(self.devices):
            device.start(classes, seed=2 * self.rounds + number)
        rows = [row for device in self.devices for row in device.results()]
        assert len(rows) == len(self.devices) * len(classes)
        return rows

    def exits(self) -> dict[str, Any]:
        """What the endpoint says of the cut."""
        answer = self.live.get("predictions/isplit/1.0/exits/leaver")
        assert answer.status_code == 200, answer.text
        (row,) = [row for row in answer.json()["exits"] if row["cut"] == CUT] or [{"versions": []}]
        return dict(row)

    def version(self) -> dict[str, Any] | None:
        """The version that is alive."""
        return next((v for v in self.exits()["versions"] if v["state"] == "alive"), None)

    def states(self) -> dict[int, str]:
        version = self.version()
        return {} if version is None else {c["class"]: c["state"] for c in version["classes"]}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("exits")
    net, prototypes = exit_network()
    torch.manual_seed(3)
    profile = profile_of(
        net,
        torch.randn(12, 3, 16, 16),
        model="leaver",
        classes=CLASSES,
        nbytes={("relu1", "uint8"): 780.0},
    )
    built = package(
        net,
        profile=profile,
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        deployed=["relu1"],
        codecs=["uint8"],
        out_dir=folder,
    )
    np.save(folder / "prototypes.npy", prototypes)
    private, public = new_keys(folder / "exit.key")
    settings = {**SETTINGS, "endpoint": {**SETTINGS["endpoint"], "exit_key_file": str(private)}}
    store = f"sqlite:///{folder / 'store.db'}"
    models = ["leaver.mar", "isplit.mar"]
    with TorchServe(
        model_store=folder, models=models, store=store, worker_settings=settings
    ) as server:
        options = {
            "url": server.inference_url,
            "head": str(built.bundle),
            "prototypes": str(folder / "prototypes.npy"),
            "exit_key": str(public),
            "key_file": str(server.key_path),
        }
        model = Model(net, profile, built)
        devices = [Device(options), Device(options)]
        yield Fleet(Live(server, store, model, model), devices, prototypes, public)
        for device in devices:
            device.close()


def test_classes_are_released_one_by_one_and_a_drift_withdraws_them(fleet: Fleet) -> None:
    # Nothing exits at first, nor while a new version is in shadow.
    first = fleet.send(KNOWN * 20)
    assert {row["path"] for row in first} == {"server"}
    sent_before = np.mean([row["sent"] for row in first])
    until(lambda: fleet.version() is not None or not fleet.send(KNOWN * 5))
    assert set(fleet.states().values()) == {"shadow"}

    # Classes are released when they are proven, from photos of two of them first.
    until(lambda: not fleet.send([0, 1] * 10) or fleet.states().get(0) == "released")
    assert fleet.states().get(2) == "shadow"
    until(lambda: not fleet.send(KNOWN * 10) or set(fleet.states().values()) == {"released"})

    # Bytes fall, and every answer by an exit is the full network's.
    def exits() -> list[dict[str, Any]]:
        return [row for row in fleet.send(KNOWN * 10) if row["path"] == "exit"]

    until(lambda: len(exits()) > 60)
    rows = fleet.send(KNOWN * 20)
    assert np.mean([row["sent"] for row in rows]) < 0.5 * sent_before
    wrong = [row for row in rows if row["label"] != CLASSES[row["class"]]]
    assert len(wrong) <= 0.2 * len(rows)

    # Photos of a class that was never seen are sent.
    rows = fleet.send([UNSEEN] * 20)
    assert {row["path"] for row in rows} == {"server"}
    # With some noise the full network itself takes a photo for another class.
    assert sum(row["label"] == CLASSES[UNSEEN] for row in rows) >= 0.9 * len(rows)

    # A drift: photos that the exit takes for its class get another answer from the full network.
    version = fleet.version()
    assert version is not None
    released, changed = TWINS
    rows = fleet.send([changed] * 10)
    assert {row["label"] for row in rows if row["path"] == "exit"} <= {CLASSES[released]}
    until(lambda: not fleet.send([changed] * 20) or fleet.states().get(released) != "released")
    until(lambda: all(row["path"] == "server" for row in fleet.send([changed] * 20)))
    rows = fleet.send([changed] * 20)
    assert sum(row["label"] == CLASSES[changed] for row in rows) >= 0.9 * len(rows)
    # Other classes stay.
    assert any(row["path"] == "exit" for row in fleet.send([1] * 20))


def test_commands_and_adaptive_clients_use_what_is_released(
    fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, head = fleet.live.server, fleet.live.toy.built.bundle
    photos = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        PIL.Image.fromarray(fleet.prototypes[1]).save(path)
        photos.append(str(path))
    words = ["predict", *photos, "--model", "leaver", "--head", str(head), "--cut", CUT]
    words += ["--url", server.inference_url, "--token-file", str(server.key_path)]
    assert main([*words, "--exit-key", str(fleet.exit_key), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["path"], row["label"]) for row in rows} == {("exit", CLASSES[1])}
    client = SplitClient(
        server.inference_url,
        model="leaver",
        head=head,
        token=server.token,
        exit_key=fleet.exit_key,
        state_dir=tmp_path / "state",
    )
    # Over this link a request takes a second and more.
    with AdaptiveClient(client, tolerance=0.3, link=LinkFilter(0.01, 1000.0)) as app:
        advice = app.wait_for_advice(60.0)
        assert advice is not None
        assert advice.exits[0].share > 0
        exits = client.exits
        assert exits is not None
        until(lambda: exits.released(Cut.parse(CUT)) is not None)
        rated = {str(row.cut): row for row in app.explain().decision.options}[CUT]
        share = advice.exits[0].share
        assert rated.option.exit_share == share
        assert rated.network_ms > 1000
        assert rated.expected_ms < rated.option.device_ms + (1.01 - share) * (
            rated.network_ms + rated.option.at_server_ms
        )
        assert app.predict(photos[0]).label == CLASSES[1]
    assert len(list((tmp_path / "state").iterdir())) == 1


def test_a_device_with_another_key_never_exits(fleet: Fleet, tmp_path: Path) -> None:
    _, public = new_keys(tmp_path / "other.key")
    until(lambda: fleet.version() is not None or not fleet.send(KNOWN * 5))
    head = fleet.live.toy.built.bundle
    server = fleet.live.server
    with SplitClient(
        server.inference_url,
        model="leaver",
        head=head,
        token=server.token,
        cut=CUT,
        exit_key=public,
    ) as client:
        exits = client.exits
        assert exits is not None
        until(
            lambda: (
                client.predict(fleet.prototypes[1]).path != "server" or exits.counters()["refused"]
            )
        )
        assert client.predict(fleet.prototypes[1]).path == "server"
        assert exits.counters()["answered"] == 0
