"""Settings that are chosen where a server is started, or where a model is packaged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from toys.serving import Worker, unpack

from isplit_plugin.cli import build_parser, main
from isplit_plugin.cli.package import _config
from isplit_plugin.device_tokens import new_secret
from isplit_plugin.errors import ServingError
from isplit_plugin.network import CapturedNetwork
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Manifest
from isplit_plugin.serving.launcher import TorchServe, process
from isplit_plugin.serving.packaging import build_archive
from isplit_plugin.serving.settings import EndpointSettings, TailSettings
from isplit_plugin.serving.settings_file import SETTINGS_VARIABLE, SettingsFile, parse_assignments

SETTINGS = """\
tail:
  sampling: 0.25
  secret_file: secrets/device.secret
  probes: {per_hour: 7}
models:
  toy:
    threads: 2
    probes: {rate: 0.5}
endpoint:
  min_gain: 0.2
  store: sqlite:///store.db
"""


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("ISPLIT_STORE", "ISPLIT_SECRET_FILE", "ISPLIT_LABEL_SECRET_FILE"):
        monkeypatch.delenv(variable, raising=False)
    path = tmp_path / "settings.yaml"
    path.write_text(SETTINGS)
    monkeypatch.setenv(SETTINGS_VARIABLE, str(path))
    return path


def test_a_worker_takes_them_over_those_of_its_archive(settings_file: Path) -> None:
    archive = {"isplit": {"sampling": 0.5, "max_batch": 8, "probes": {"enabled": True}}}
    toy = TailSettings.from_config(archive, model="toy")
    assert (toy.sampling, toy.max_batch, toy.threads) == (0.25, 8, 2)
    assert (toy.probes.enabled, toy.probes.per_hour, toy.probes.rate) == (True, 7, 0.5)
    other = TailSettings.from_config(archive, model="other")
    assert (other.sampling, other.threads, other.probes.rate) == (0.25, 1, 0.05)
    assert EndpointSettings.from_config({}).min_gain == 0.2


def test_its_paths_are_relative_to_its_folder(settings_file: Path) -> None:
    folder = settings_file.parent
    tail = TailSettings.from_config({})
    assert tail.secret_file == str(folder / "secrets" / "device.secret")
    assert EndpointSettings.from_config({}).store == f"sqlite:///{folder / 'store.db'}"


def test_variables_outrank_it(settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISPLIT_SECRET_FILE", "/elsewhere")
    assert TailSettings.from_config({}).secret_file == "/elsewhere"


def test_a_loaded_worker_has_them(
    model_dir: Path, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("models: {toy: {max_batch: 3, statistics: false}}")
    monkeypatch.setenv(SETTINGS_VARIABLE, str(path))
    worker = Worker(model_dir)
    assert worker.handler.describe()["max_batch"] == 3
    worker.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tails: {}", "tails: unknown section; known sections: tail, models, endpoint"),
        ("tail: {smapling: 1}", "tail.smapling: unknown key; known keys: cpu_budget"),
        ("tail: {sampling: 2}", "tail.sampling: expected a number from 0 to 1, got 2"),
        ("models: {toy: {threads: 0}}", "models.toy.threads: expected a whole number from 1"),
        ("models: {toy: {probes: {when: 1}}}", "models.toy.probes.when: unknown key"),
        ("models: [toy]", "models: expected a section with keys"),
        ("tail: 3", "tail: expected a section with keys, got 3"),
        ("- a", "expected a section with keys"),
        ("tail: {a: [", "the settings are not YAML"),
    ],
)
def test_what_is_wrong_with_it_is_named(settings_file: Path, text: str, message: str) -> None:
    settings_file.write_text(text)
    with pytest.raises(ServingError, match=re.escape(message)) as caught:
        TailSettings.from_config({}, model="toy")
    assert str(settings_file) in caught.value.message
    assert "\n" not in caught.value.message


def test_a_wrong_setting_of_the_endpoint(settings_file: Path) -> None:
    settings_file.write_text("endpoint: {sampling: 1}")
    with pytest.raises(ServingError, match=r"endpoint\.sampling: unknown key; known keys: dwell_s"):
        EndpointSettings.from_config({})


def test_a_file_that_is_not_there(settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings_file.unlink()
    with pytest.raises(ServingError, match=r"settings\.yaml: the settings cannot be read"):
        TailSettings.from_config({})
    monkeypatch.setenv(SETTINGS_VARIABLE, "settings.yaml")
    with pytest.raises(ServingError, match=f"{SETTINGS_VARIABLE}: expected an absolute path"):
        TailSettings.from_config({})


def test_assignments() -> None:
    words = ["tail.sampling=0.5", "tail.probes.enabled=true", "tail.secret_file=a=b", "models.x.y="]
    assert parse_assignments(words) == {
        "tail": {"sampling": 0.5, "probes": {"enabled": True}, "secret_file": "a=b"},
        "models": {"x": {"y": ""}},
    }
    for word in ("tail", "tail=1", "tail.=1", ".a=1", "=1", "a." * 20 + "b=1"):
        with pytest.raises(ServingError, match=r"expected SECTION\.KEY=VALUE"):
            parse_assignments([word])
    with pytest.raises(ServingError, match="as a value and as a section"):
        parse_assignments(["tail.probes=1", "tail.probes.rate=1"])


def _served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What a server would give its workers, without a server."""
    started = []

    def start(frontend: process.Frontend) -> None:
        started.append(frontend._environment())
        raise KeyboardInterrupt

    monkeypatch.setattr(process.Frontend, "start", start)
    return started


def test_serve_writes_what_is_in_force(
    settings_file: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = _served(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secrets").mkdir()
    new_secret(tmp_path / "secrets" / "device.secret")
    new_secret(tmp_path / "labels")
    (tmp_path / "here.yaml").write_text("tail: {threads: 4, sampling: 0.75}")
    words = [
        "--settings",
        "here.yaml",
        "--set",
        "tail.threads=3",
        "--set",
        "models.toy.max_batch=9",
    ]
    words += ["--set", "endpoint.label_secret_file=labels"]
    assert main(["serve", "--model-store", str(archive.parent), *words]) == 130
    path = Path(started[0][SETTINGS_VARIABLE])
    assert path == tmp_path / "isplit-run" / "settings.yaml"
    assert path.stat().st_mode & 0o777 == 0o600
    written = yaml.safe_load(path.read_text())
    assert written["tail"] == {
        "sampling": 0.75,
        "secret_file": str(tmp_path / "secrets" / "device.secret"),
        "probes": {"per_hour": 7},
        "threads": 3,
    }
    assert written["models"]["toy"] == {"threads": 2, "probes": {"rate": 0.5}, "max_batch": 9}
    assert written["endpoint"]["label_secret_file"] == str(tmp_path / "labels")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tail.smapling=1"], "tail.smapling: unknown key; known keys: cpu_budget"),
        (["models.nobody.threads=1"], "models.nobody: unknown model; known: toy"),
        (["torchserve.batchSize=1"], "torchserve: unknown section; known sections: tail"),
    ],
)
def test_serve_refuses_a_wrong_setting_before_it_starts(  # noqa: PLR0917
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    started = _served(monkeypatch)
    monkeypatch.chdir(tmp_path)
    options = [word for item in words for word in ("--set", item)]
    assert main(["serve", "--model-store", str(archive.parent), *options]) == 5
    assert message in capsys.readouterr().err
    assert started == []


def test_without_settings_there_is_no_file(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)
    started = _served(monkeypatch)
    server = TorchServe(model_store=archive.parent, workdir=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert SETTINGS_VARIABLE not in started[0]


def _package_config(*words: str) -> dict[str, Any]:
    parser = build_parser("package")
    required = ["--network", "torchvision:x", "--profile", "p"]
    return _config(parser.parse_args(["package", *required, *words]))


def test_package_takes_settings(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("batchSize: 2\nisplit: {sampling: 0.5, probes: {rate: 0.1}}")
    words = ["--model-config", str(path), "--set", "tail.probes.enabled=true"]
    assert _package_config(*words, "--set", "torchserve.batchSize=8") == {
        "batchSize": 8,
        "isplit": {"sampling": 0.5, "probes": {"rate": 0.1, "enabled": True}},
    }
    assert _package_config() == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "tail.smapling=1"], "isplit.smapling: unknown key; known keys: cpu_budget"),
        (["--set", "torchserve.batchsize=1"], "batchsize: unknown key; known keys: batchSize"),
        (["--set", "torchserve.batchSize=0"], "batchSize: expected a whole number from 1, got 0"),
        (["--set", "endpoint.min_gain=1"], "isplit serve --set"),
        (["--set", "tail.store=sqlite:///my.db"], "expected an absolute path"),
        (["--model-config", "nowhere.yaml"], "nowhere.yaml: the settings cannot be read"),
    ],
)
def test_package_refuses_a_wrong_setting(words: list[str], message: str) -> None:
    with pytest.raises(ServingError, match=re.escape(message)):
        _package_config(*words)


def test_settings_of_an_archive_keep_the_others(
    net: CapturedNetwork, manifest: Manifest, profile: Profile, tmp_path: Path
) -> None:
    config = {"batchSize": 8, "isplit": {"probes": {"rate": 0.5}}}
    path = build_archive(net, manifest=manifest, profile=profile, config=config, out_dir=tmp_path)
    written = yaml.safe_load((unpack(path, tmp_path / "m") / "model-config.yaml").read_text())
    assert written["batchSize"] == 8
    assert written["isplit"]["probes"] == {
        "enabled": False,
        "per_hour": 60,
        "cpu_budget": 0.01,
        "rate": 0.5,
    }


def test_a_file_over_a_file() -> None:
    base = SettingsFile.of({"tail": {"store": "a.db"}}, "one", Path("/one"))
    over = SettingsFile.of({"tail": {"secret_file": "b"}}, "two", Path("/two"))
    assert base.with_overrides(over).tail == {
        "store": "sqlite:////one/a.db",
        "secret_file": "/two/b",
    }
