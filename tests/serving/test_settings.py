"""Settings of the workers, and the configuration files that ship with the package."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET  # our own file
from pathlib import Path
from typing import Any

import pytest
import yaml

from isplit_plugin.advice import SwitchingPolicy
from isplit_plugin.device_tokens import SECRET_VARIABLE
from isplit_plugin.errors import ServingError
from isplit_plugin.serving import resources
from isplit_plugin.serving.launcher.process import read_properties
from isplit_plugin.serving.settings import (
    LABEL_SECRET_VARIABLE,
    STORE_VARIABLE,
    EndpointSettings,
    TailSettings,
    WorkerSettings,
    make_store_folder,
    store_url,
)
from isplit_plugin.serving.settings_file import SETTINGS_VARIABLE
from isplit_plugin.serving.tail.metrics import DECLARED


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (STORE_VARIABLE, SECRET_VARIABLE, LABEL_SECRET_VARIABLE, SETTINGS_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


def _shipped(name: str) -> Any:
    return yaml.safe_load(resources.config_file(name).read_text("utf-8"))


@pytest.mark.parametrize("settings", [TailSettings, EndpointSettings])
def test_the_shipped_file_holds_every_key_and_the_defaults(settings: type[WorkerSettings]) -> None:
    config = _shipped(settings.file)
    assert settings.from_config(config) == settings.from_config({}) == settings()
    assert settings.from_config({"isplit": None}) == settings()
    assert config["isplit"].keys() == settings.model_fields.keys()
    probes = config["isplit"]["probes"]
    assert probes.keys() == settings().model_dump()["probes"].keys()


def test_the_shipped_policy_is_the_default() -> None:
    settings = EndpointSettings.from_config(_shipped("endpoint-config.yaml"))
    assert (
        SwitchingPolicy(settings.min_gain, settings.dwell_s)
        == SwitchingPolicy()
        == SwitchingPolicy(0.05, 900.0)
    )


def test_the_response_limit_is_the_servers() -> None:
    properties = read_properties(resources.config_file("config.properties"))
    assert int(properties["max_response_size"]) == TailSettings.from_config({}).max_response_size
    assert int(properties["max_request_size"]) == 32 * 1024 * 1024


def test_the_server_is_closed_by_default() -> None:
    properties = read_properties(resources.config_file("config.properties"))
    assert properties["disable_token_authorization"] == "false"
    assert properties["enable_model_api"] == "false"
    assert not re.search("http", properties["allowed_urls"])


def test_every_metric_is_declared() -> None:
    declared = {
        (m["name"], kind, m["unit"], tuple(m["dimensions"]))
        for kind, metrics in _shipped("metrics.yaml")["model_metrics"].items()
        for m in metrics
    }
    assert {(name, "counter", *rest) for name, *rest in DECLARED} <= declared


def test_the_log_configuration_is_xml() -> None:
    root = ET.parse(resources.config_file("log4j2.xml")).getroot()  # noqa: S314 (ours)
    levels = {logger.get("name"): logger.get("level") for logger in root.iter("Logger")}
    assert levels["ACCESS_LOG"] == "off"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"sampling": 1.5}, "isplit.sampling: expected a number from 0 to 1, got 1.5"),
        ({"sampling": True}, "isplit.sampling: expected a number from 0 to 1, got True"),
        ({"sampling": float("nan")}, "isplit.sampling: expected a number from 0 to 1, got nan"),
        ({"cpu_budget": "much"}, "isplit.cpu_budget: expected a number from 0 to 1, got 'much'"),
        ({"threads": 0}, "isplit.threads: expected a whole number from 1 to 1024, got 0"),
        ({"threads": 1.5}, "isplit.threads: expected a whole number from 1 to 1024, got 1.5"),
        (
            {"max_response_size": 1000},
            "isplit.max_response_size: expected a whole number from 65536 to 2147483647, got 1000",
        ),
        ({"max_batch": True}, "isplit.max_batch: expected a whole number from 1 to 65536"),
        ({"statistics": "no"}, "isplit.statistics: expected true or false, got 'no'"),
        ({"store": 3}, "isplit.store: expected text, got 3"),
        (
            {"smapling": 0.5},
            "isplit.smapling: unknown key; known keys: cpu_budget, exits, label_secret_file, max_batch, "
            "max_response_size, probes, refinement, sampling, secret_file, statistics, store, threads",
        ),
        ({"min_gain": 0.1}, "isplit.min_gain: unknown key"),
        ({1: 2}, "isplit.1: unknown key"),
        (["sampling"], "isplit: expected a section with keys, got ['sampling']"),
        (
            {"probes": True},
            "isplit.probes: expected a section with the keys cpu_budget, enabled, per_hour, rate, "
            "got True",
        ),
        (
            {"probes": {"per_hour": 1_000_001}},
            "isplit.probes.per_hour: expected a whole number from 0 to 1000000, got 1000001",
        ),
        ({"probes": {"per_day": 1}}, "isplit.probes.per_day: unknown key; known keys: cpu_budget"),
    ],
)
def test_a_wrong_setting_of_a_tail_is_named(section: object, message: str) -> None:
    with pytest.raises(
        ServingError, match=re.escape(f"model-config.yaml in the model's archive: {message}")
    ):
        TailSettings.from_config({"isplit": section})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"min_gain": -1}, "isplit.min_gain: expected a number from 0 to 10, got -1"),
        ({"min_gain": True}, "isplit.min_gain: expected a number from 0 to 10, got True"),
        ({"dwell_s": "soon"}, "isplit.dwell_s: expected a number from 0 to 1000000000"),
        ({"dwell_s": 1e10}, "isplit.dwell_s: expected a number from 0 to 1000000000"),
        (
            {"sampling": 0.1},
            "isplit.sampling: unknown key; known keys: dwell_s, exit_key_file, exits",
        ),
        ({"probes": {"enabled": True}}, "isplit.probes.enabled: unknown key; known keys: per_hour"),
    ],
)
def test_a_wrong_setting_of_the_endpoint_is_named(section: object, message: str) -> None:
    with pytest.raises(
        ServingError, match=re.escape(f"model-config.yaml in isplit.mar: {message}")
    ):
        EndpointSettings.from_config({"isplit": section})


def test_every_wrong_setting_is_named_at_once() -> None:
    section = {"threads": 0, "smapling": 0.5, "probes": {"rate": 2}}
    with pytest.raises(ServingError) as caught:
        TailSettings.from_config({"isplit": section})
    for key in ("isplit.threads", "isplit.smapling", "isplit.probes.rate"):
        assert key in caught.value.message
    assert "\n" not in caught.value.message  # one line of a worker's log


@pytest.mark.parametrize("settings", [TailSettings, EndpointSettings])
@pytest.mark.parametrize(
    ("key", "variable"),
    [
        ("store", STORE_VARIABLE),
        ("secret_file", SECRET_VARIABLE),
        ("label_secret_file", LABEL_SECRET_VARIABLE),
    ],
)
def test_the_environment_takes_precedence_over_the_file(
    settings: type[WorkerSettings], key: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"isplit": {key: "/in/the/file"}}
    assert getattr(settings.from_config(config), key) == "/in/the/file"
    monkeypatch.setenv(variable, "/in/the/environment")
    assert getattr(settings.from_config(config), key) == "/in/the/environment"
    assert getattr(settings.from_config(None), key) == "/in/the/environment"
    monkeypatch.setenv(variable, "")
    assert getattr(settings.from_config(config), key) == "/in/the/file"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("store", "sqlite:///my.db"),
        ("store", "my.db"),
        ("secret_file", "my.secret"),
        ("label_secret_file", "secrets/labels"),
    ],
)
def test_a_relative_path_is_refused_where_nobody_knows_its_folder(
    key: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServingError, match=f"archive: isplit.{key}: expected an absolute path"):
        TailSettings.from_config({"isplit": {key: value}})
    with pytest.raises(ServingError, match=f"isplit.{key}: expected an absolute path"):
        EndpointSettings.from_config({"isplit": {key: value}})
    variables = {"store": STORE_VARIABLE, "secret_file": SECRET_VARIABLE}
    variable = variables.get(key, LABEL_SECRET_VARIABLE)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ServingError, match=f"the variable {variable}: {key}: expected an absolute"):
        TailSettings.from_config({})


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "postgresql+psycopg://u@h/d"])
def test_a_store_without_a_path_is_not_relative(url: str) -> None:
    assert TailSettings.from_config({"isplit": {"store": url}}).store == url


def test_the_default_store_is_in_the_users_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    default = "sqlite:////state/isplit/isplit-store.sqlite3"
    assert store_url() == default
    for value in (None, ""):
        assert TailSettings.from_config({"isplit": {"store": value}}).store == default
    monkeypatch.setenv(STORE_VARIABLE, "sqlite:///a")
    assert store_url() == "sqlite:///a"


def test_resources_are_found_in_a_wheel_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "isplit_plugin"
    (installed / "_config").mkdir(parents=True)
    (installed / "_config" / "metrics.yaml").touch()
    monkeypatch.setattr(resources, "_PACKAGE", installed)
    assert resources.config_file("metrics.yaml") == installed / "_config" / "metrics.yaml"
    with pytest.raises(
        ServingError, match=r"handlers/tail_handler.py is missing from this installation"
    ):
        resources.handler_file("tail_handler.py")


def test_only_the_folder_of_the_default_store_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    make_store_folder(f"sqlite:///{tmp_path / 'state' / 'isplit' / 'other.db'}")
    assert not (tmp_path / "state").exists()
    make_store_folder(TailSettings.from_config({}).store)
    assert (tmp_path / "state" / "isplit").stat().st_mode & 0o777 == 0o700


def test_a_lone_request_waits_for_no_other() -> None:
    """With more than one in a batch, TorchServe holds it back for `maxBatchDelay`."""
    assert _shipped("model-config.yaml")["batchSize"] == 1
