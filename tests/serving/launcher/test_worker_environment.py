"""What the workers are told: absolute paths, and secrets that can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isplit_plugin.cli import main
from isplit_plugin.device_tokens import SECRET_VARIABLE, new_secret
from isplit_plugin.errors import SecretError
from isplit_plugin.serving.launcher import TorchServe, process
from isplit_plugin.serving.launcher.worker_environment import check_secrets, worker_environment
from isplit_plugin.serving.settings import LABEL_SECRET_VARIABLE, STORE_VARIABLE
from isplit_plugin.serving.settings_file import SETTINGS_VARIABLE, SettingsFile


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; no variable is set."""
    for variable in (STORE_VARIABLE, SECRET_VARIABLE, LABEL_SECRET_VARIABLE, SETTINGS_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("url", ["sqlite:///my.db", "my.db"])
def test_a_relative_store_is_in_the_current_folder(here: Path, url: str) -> None:
    assert worker_environment({STORE_VARIABLE: url}) == {
        STORE_VARIABLE: f"sqlite:///{here / 'my.db'}"
    }


@pytest.mark.parametrize(
    "url",
    ["sqlite:////var/lib/isplit.db", "postgresql+psycopg://me:pass@db/isplit?sslmode=require"],
)
def test_another_store_stays_as_it_is(url: str) -> None:
    assert worker_environment({STORE_VARIABLE: url}) == {STORE_VARIABLE: url}


def test_paths_of_the_environment_are_in_the_current_folder_too(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORE_VARIABLE, "sqlite:///my.db")
    monkeypatch.setenv(LABEL_SECRET_VARIABLE, "labels.secret")
    monkeypatch.setenv(SECRET_VARIABLE, "")
    assert worker_environment({"OTHER": "kept"}) == {
        "OTHER": "kept",
        STORE_VARIABLE: f"sqlite:///{here / 'my.db'}",
        LABEL_SECRET_VARIABLE: str(here / "labels.secret"),
    }


def test_an_option_takes_precedence_over_the_environment(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORE_VARIABLE, "sqlite:///variable.db")
    environment = worker_environment({STORE_VARIABLE: "sqlite:///option.db"})
    assert environment[STORE_VARIABLE] == f"sqlite:///{here / 'option.db'}"


def _no_server(*_: object) -> None:
    raise AssertionError("the server must not start")


@pytest.mark.parametrize("variable", [SECRET_VARIABLE, LABEL_SECRET_VARIABLE])
def test_a_secret_that_cannot_be_used_is_refused_before_the_server_starts(
    here: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setattr(process.Frontend, "start", _no_server)
    monkeypatch.setenv(variable, "my.secret")
    server = TorchServe(model_store=here)
    path = here / "my.secret"
    with pytest.raises(
        SecretError, match=f"{variable}: .*isplit device secret --secret-file {path}"
    ):
        server.start()
    new_secret(path).chmod(0o644)
    with pytest.raises(
        SecretError, match=f"{variable}: .*expected mode 0600, got 0644.*chmod 600 {path}"
    ):
        server.start()


@pytest.mark.parametrize(
    ("setting", "make"),
    [
        ("tail.secret_file", "device secret --secret-file"),
        ("models.letters.label_secret_file", "device secret --secret-file"),
        ("endpoint.exit_key_file", "keys make"),
    ],
)
def test_a_key_in_the_settings_is_refused_before_the_server_starts(
    here: Path, monkeypatch: pytest.MonkeyPatch, setting: str, make: str
) -> None:
    path = here / "my.key"
    *sections, key = setting.split(".")
    settings: dict[str, Any] = {key: "my.key"}
    for section in reversed(sections):
        settings = {section: settings}
    environment: dict[str, str] = {}
    file = SettingsFile.of(settings, "the settings", here)
    with pytest.raises(SecretError, match=f"{setting}: .*isplit {make} {path}"):
        check_secrets(environment, file)
    path.write_text("much too open, and neither a secret nor a key")
    path.chmod(0o644)
    with pytest.raises(SecretError, match=f"{setting}: .*0644.*chmod 600 {path}"):
        check_secrets(environment, file)


def test_a_server_checks_the_keys_in_its_settings(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process.Frontend, "start", _no_server)
    settings = {"endpoint": {"exit_key_file": "my.key"}}
    server = TorchServe(model_store=here, worker_settings=settings)
    with pytest.raises(SecretError, match="isplit keys make"):
        server.start()


@pytest.mark.parametrize(
    ("option", "variable", "file"),
    [
        ("sqlite:///option.db", "sqlite:///variable.db", "option.db"),
        (None, "sqlite:///variable.db", "variable.db"),
        (None, None, "isplit-run/store.db"),
    ],
)
def test_serve_gives_the_workers_one_store(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str | None,
    variable: str | None,
    file: str,
) -> None:
    stores = []

    def start(frontend: process.Frontend) -> None:
        stores.append(frontend._environment()[STORE_VARIABLE])
        raise KeyboardInterrupt

    monkeypatch.setattr(process.Frontend, "start", start)
    if variable:
        monkeypatch.setenv(STORE_VARIABLE, variable)
    (here / "model_store").mkdir()
    assert main(["serve", *(["--store", option] if option else [])]) == 130
    assert stores == [f"sqlite:///{here / file}"]
