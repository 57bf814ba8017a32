"""The page "Upgrade a model", run on two real servers that share a store, while devices of both
versions go on.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, chdir
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from toys.pages import DOCS, Reader, blocks, command_lines
from toys.polling import until

from isplit_plugin.cli import main
from isplit_plugin.client import AdaptiveClient, SplitClient, read_key, send_labels
from isplit_plugin.device_tokens import read_secret
from isplit_plugin.errors import NetworkMismatchError, UnknownVersionError
from isplit_plugin.files import file_sha256
from isplit_plugin.traffic import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAGE = "how-to/upgrade-a-model.md"
NAMES = ("red", "green", "blue")
_FACTORY = """
from torch import nn
from isplit_plugin.schema import Preprocessing

def build():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )
    return net, Preprocessing(crop=(32, 32), resize=32), ("red", "green", "blue")
"""


def run_here(script: str, folder: Path) -> None:
    """The `isplit` commands of a script in this process, which has loaded torch already."""
    with chdir(folder):
        for line in command_lines(script):
            name, *words = shlex.split(line)
            assert (name, main(words)) == ("isplit", 0), line


def steps(heading: str, language: str = "sh") -> list[str]:
    """The code blocks of a section of the page."""
    (section,) = re.findall(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)",
        (DOCS / PAGE).read_text(),
        flags=re.MULTILINE | re.DOTALL,
    )
    return blocks(section, language)


@dataclass
class Servers:
    """Two servers, each in a folder of its own, and the store that they share."""

    readers: tuple[Reader, Reader]
    store: Store
    label_secret: str

    @property
    def one(self) -> Reader:
        return self.readers[0]

    def on_each(self, script: str) -> list[str]:
        """What a script prints in each server's folder."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda reader: reader.run(script), self.readers))

    def client(self, reader: Reader, bundle: str, **options: Any) -> SplitClient:
        head = self.one.folder / "model_store" / bundle
        token = token_of(reader)
        return SplitClient(reader.url, model="letters", head=head, token=token, **options)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two sets of weights for `letters:build`, which can be imported."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "letters.py").write_text(_FACTORY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        build = importlib.import_module("letters").build
        for seed in (1, 2):
            torch.manual_seed(seed)
            save_file(build()[0].state_dict(), folder / f"letters-{seed}.safetensors")
        yield folder


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Iterator[Servers]:
    """Two servers with letters 1.0, started as the page says."""
    root = tmp_path_factory.mktemp("upgrade")
    url = f"sqlite:///{root / 'store.db'}"
    for name in ("one", "two"):
        (root / name).mkdir()
    one, two = (Reader(root / name) for name in ("one", "two"))
    for reader in (one, two):
        reader.environment |= {"ISPLIT_STORE": url, "ISPLIT_URL": reader.url}
    share_secrets(one, two)
    for file in weights.glob("*.safetensors"):
        shutil.copy(file, one.folder)
    make_photos(one.folder / "photos")
    make_photos(two.folder / "photos")
    package, *more = steps("Package the new version")
    assert not more
    run_here(package.replace("letters-2", "letters-1").replace("--version 2.0", ""), one.folder)
    shutil.copytree(one.folder / "model_store", two.folder / "model_store")
    with ExitStack() as running:
        (command,) = re.findall(r"started with `(isplit serve [^`]*)`", (DOCS / PAGE).read_text())
        command = command.replace("$ISPLIT_STORE", url) + exit_options()
        with ThreadPoolExecutor() as pool:
            servers = [reader.serving(command) for reader in (one, two)]
            for server in pool.map(_entered, servers):
                running.push(server)
        store = running.enter_context(Store(url, create=False))
        secret = read_secret(one.folder / "labels.secret").decode()
        yield Servers((one, two), store, secret)


def share_secrets(one: Reader, two: Reader) -> None:
    """Make the secrets as the page says, copy them, and export their names."""
    make, export = steps("What the servers share")
    one.run(make)
    names = [line.split()[-1] for line in make.splitlines()]
    assert names == ["device.secret", "labels.secret", "exit.key"]
    for name in names:
        shutil.copy2(one.folder / name, two.folder / name)  # what scp -p does
    for reader in (one, two):
        exported = reader.run(f"{export}\nenv")
        reader.environment |= {
            variable: value
            for variable, _, value in (line.partition("=") for line in exported.splitlines())
            if variable in {"ISPLIT_SECRET_FILE", "ISPLIT_LABEL_SECRET_FILE"}
        }


def exit_options() -> str:
    """The options of the page for exits, without those that turn them on in the tail."""
    (options,) = re.findall(r"start each server with `([^`]*)`", (DOCS / PAGE).read_text())
    (key,) = re.findall(r"--set\s+endpoint\S+", options)
    return f" {key}"


def _entered(server: AbstractContextManager[None]) -> AbstractContextManager[None]:
    server.__enter__()
    return server


def make_photos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for channel, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 120, (40, 48, 3), dtype=np.uint8)
            pixels[..., channel] = 220
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@dataclass
class Fleet:
    """A device at each server, which predicts all the time and asks for advice now and then."""

    servers: Servers
    bundle: str
    predictions: int = 0
    advised: set[str] = field(default_factory=set)
    unanswered: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Fleet:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(reader,)) for reader in self.servers.readers
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, number: int = 10) -> None:
        """Wait for more predictions, none of which may fail."""
        wanted = self.predictions + number
        until(lambda: self.predictions >= wanted or self.failures)
        assert self.failures == []

    def _run(self, reader: Reader) -> None:
        photo = reader.folder / "photos" / "green" / "1.png"
        with self.servers.client(reader, self.bundle) as client:
            cut = client.cut
            while not self._stop.wait(0.03):
                try:
                    client.predict(photo, cut)
                    self.predictions += 1
                    if self.predictions % 10 == 0:
                        self._ask(client)
                except Exception as error:
                    self.failures.append(f"{type(error).__name__}: {error}")

    def _ask(self, client: SplitClient) -> None:
        try:
            answer = client.recommendation()
        except UnknownVersionError as error:
            self.unanswered.append(error.message)
        else:
            client.use(answer)
            self.advised.add(answer.version)


def plain_questions(servers: Servers) -> list[str]:
    """The version that each server answers for where a question names none."""
    script = "isplit recommend letters --json --token-file isplit-run/key_file.json"
    return [json.loads(text)["version"] for text in servers.on_each(script)]


def test_the_servers_take_the_same_secrets(servers: Servers) -> None:
    """Runs first: a token issued once holds at both, and both sign exits with one key."""
    one = servers.one
    one.run("isplit device issue --id camera-7 --days 1 -o camera-7.token")
    camera = (one.folder / "camera-7.token").read_text().strip()
    for reader in servers.readers:
        photo = reader.folder / "photos" / "red" / "0.png"
        with servers.client(reader, "letters.head.zip", device_token=camera) as client:
            prediction = client.predict(photo)
        assert prediction.device == "ok"
        script = "isplit exits letters --json --token-file isplit-run/key_file.json"
        assert json.loads(reader.run(script))["signing"] is True
        assert not (reader.folder / "isplit-run" / "device.secret").exists()


def test_from_the_first_version_to_the_second_and_back(
    servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = servers.readers
    store = servers.store
    photo = two.folder / "photos" / "red" / "0.png"
    (default,) = steps("Give devices the new bundle")
    register, try_it = steps("Register it beside the first")

    with ExitStack() as devices:
        first = devices.enter_context(Fleet(servers, "letters.head.zip"))
        old = devices.enter_context(servers.client(two, "letters.head.zip"))
        first.go_on()

        # ------------------------------------------------------------------------------ package
        files = {path: file_sha256(path) for path in (one.folder / "model_store").iterdir()}
        run_here(steps("Package the new version")[0], one.folder)
        for path, digest in files.items():
            assert path.name == "isplit.mar" or file_sha256(path) == digest
        shutil.copy(one.folder / "model_store" / "letters-2.0.mar", two.folder / "model_store")

        # ------------------------------------------------------------------------------ register
        for printed in servers.on_each(register):
            assert "letters 2.0: 1 worker(s), READY" in printed
            assert "no version go to 1.0" in printed
        networks = {row.version: row.network_hash for row in store.networks()}
        assert len(set(networks.values())) == 2
        assert plain_questions(servers) == ["1.0", "1.0"]
        assert "letters 2.0: use" in one.run(try_it)
        assert old.recommendation().network_hash == networks["1.0"]
        first.go_on()
        assert first.advised == {"1.0"}

        # ------------------------------------------------------------------------------ new bundles
        device = devices.enter_context(client_of_the_page(servers, two))
        with Fleet(servers, "letters-2.0.head.zip") as second:
            ids = [client.predict(photo).request_id for client in (old, device)]
            # a label counts for the version that answered
            for request_id, counts in ((ids[1], (0, 1)), (ids[0], (1, 1))):
                until(lambda request_id=request_id: send_label(servers, two, request_id))  # type: ignore[misc]
                assert (labelled(two, "1.0"), labelled(two, "2.0")) == counts
            second.go_on()
            assert second.advised == {"2.0"}

            # -------------------------------------------------------------------------- the default
            assert set(servers.on_each(default)) == {"letters 2.0: 1 worker(s), READY\n"}
            without_bundle = devices.enter_context(
                SplitClient(two.url, model="letters", token=token_of(two))
            )
            by_device = device.predict(photo, "output")
            assert without_bundle.predict(photo).class_id == by_device.class_id
            first.go_on()

            # -------------------------------------------------------------------------- forgotten
            second.go_on(100)
            one.run("isplit store forget letters --version 2.0 --store $ISPLIT_STORE --yes")
            second.go_on(30)
            until(lambda: store.view(networks["2.0"]).observations > 0)
            assert store.view(networks["2.0"]).observations < second.predictions - 30
            assert all("known: 1.0" in message for message in second.unanswered)
            logs = [reader.folder / "isplit-run" / "torchserve.log" for reader in servers.readers]
            message = "letters 2.0 was forgotten by the store, but this worker serves it"
            assert any(message in log.read_text() for log in logs)

            # -------------------------------------------------------------------------- roll back
            back, end, forget = steps("Roll back")
            assert set(servers.on_each(back)) == {"letters 1.0: 1 worker(s), READY\n"}
            first.go_on()
            second.go_on()
        servers.on_each(end)
        one.run(forget)
        with pytest.raises(NetworkMismatchError):
            device.predict(photo)
        example = device_app()
        with AdaptiveClient(client_of_the_page(servers, two)) as app:
            capsys.readouterr()
            with app.stream([photo], drop="none") as stream:
                example.show(stream, None)
            example.warn(app.explain().failure)
        printed = capsys.readouterr().out
        assert "this device needs a new head bundle" in printed
        assert "cut at output:none" in printed

        # ------------------------------------------------------------------------------ and again
        servers.on_each(register)
        servers.on_each(default)
        assert device.predict(photo).label == by_device.label
        first.go_on()

    # ---------------------------------------------------------------------------------- no traffic
    until(lambda: store.view(networks["1.0"]).observations > first.predictions)
    look, curl = steps("See that the traffic of the old version has ended")
    before = newest_requests(one.run(look))
    with Fleet(servers, "letters-2.0.head.zip") as second:
        second.go_on()
        until(lambda: newest_requests(one.run(look))["2.0"] > before["2.0"])
    assert newest_requests(one.run(look))["1.0"] == before["1.0"]
    listed = json.loads(one.run(f"ISPLIT_DEVICE_TOKEN={token_of(one)()}\n{curl}"))["models"]
    assert [row["version"] for row in listed] == ["1.0", "2.0"]

    # ---------------------------------------------------------------------------------- retire
    unregister, forget = steps("Retire the old version")
    servers.on_each(unregister)
    for reader in servers.readers:
        (reader.folder / "model_store" / "letters.mar").unlink()
    one.run(forget)
    assert [row.version for row in store.networks()] == ["2.0"]
    assert plain_questions(servers) == ["2.0", "2.0"]
    with servers.client(two, "letters.head.zip") as client:
        with pytest.raises(NetworkMismatchError):
            client.predict(photo)
        with pytest.raises(UnknownVersionError, match=r"known: 2\.0"):
            client.recommendation()
    with (
        servers.client(two, "letters.head.zip", version="1.0") as client,
        pytest.raises(UnknownVersionError, match=r"other versions in the store: 2\.0"),
    ):
        client.predict(photo)
    question = "isplit recommend letters --version 3.0 --token-file isplit-run/key_file.json"
    assert "known: 2.0" in one.run(question, code=3)


def token_of(reader: Reader) -> Callable[[], str]:
    return lambda: read_key(reader.folder / "isplit-run" / "key_file.json")


def client_of_the_page(servers: Servers, reader: Reader) -> SplitClient:
    """The client that the page's Python makes."""
    (snippet,) = steps("Give devices the new bundle", "python")
    bundle = servers.one.folder / "model_store" / "letters-2.0.head.zip"
    names = {"SplitClient": SplitClient, "url": reader.url, "token": token_of(reader)}
    exec(snippet.replace("letters-2.0.head.zip", str(bundle)), names)  # noqa: S102
    client = names["client"]
    assert isinstance(client, SplitClient)
    return client


def send_label(servers: Servers, reader: Reader, request_id: str) -> bool:
    """Whether the endpoint took a label; a request is known a second after its answer."""
    labels = {request_id: 0}
    return send_labels(reader.url, labels, servers.label_secret, token_of(reader)).taken == 1


def labelled(reader: Reader, version: str) -> int:
    """The labels that count for a version."""
    token = token_of(reader)()
    url = f"{reader.url}/predictions/isplit/1.0/accuracy/letters/version/{version}"
    body = json.loads(reader.run(f'curl -sS -H "Authorization: Bearer {token}" {url}'))
    assert body["version"] == version
    return round(sum(float(row["labelled"]) for row in body["accuracy"]))


def newest_requests(table: str) -> dict[str, str]:
    """By version: the time in the last columns of ``isplit store models``."""
    rows = [line.split() for line in table.splitlines() if line.startswith("letters")]
    return {row[1]: " ".join(row[-3:]) for row in rows}


def device_app() -> ModuleType:
    """The example of a device."""
    path = DOCS.parent / "examples" / "device_app.py"
    spec = importlib.util.spec_from_file_location("device_app", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
