"""Configuration that ships is configuration that can be read."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET  # our own file
from pathlib import Path
from typing import Any

import pytest
import yaml

from isplit_plugin.errors import ServingError
from isplit_plugin.serving import resources
from isplit_plugin.serving.launcher.process import read_properties
from isplit_plugin.serving.settings import STORE_VARIABLE, TailSettings, store_url
from isplit_plugin.serving.tail.metrics import DECLARED


def _shipped(name: str) -> Any:
    return yaml.safe_load(resources.config_file(name).read_text("utf-8"))


def test_the_shipped_yaml_holds_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORE_VARIABLE, "sqlite:////somewhere/store.db")
    settings = TailSettings.from_config(_shipped("model-config.yaml"))
    assert (
        settings
        == TailSettings.from_config({})
        == TailSettings(store="sqlite:////somewhere/store.db")
    )


def test_the_request_limit_is_the_servers() -> None:
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
    assert set(DECLARED) <= declared


def test_the_log_configuration_is_xml() -> None:
    root = ET.parse(resources.config_file("log4j2.xml")).getroot()  # noqa: S314 (ours)
    levels = {logger.get("name"): logger.get("level") for logger in root.iter("Logger")}
    assert levels["ACCESS_LOG"] == "off"


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ({"sampling": 1.5}, "isplit.sampling must be a number from 0.0 to 1.0, got 1.5"),
        ({"threads": 0}, "isplit.threads"),
        ({"cpu_budget": "much"}, "isplit.cpu_budget"),
        ({"max_batch": True}, "isplit.max_batch"),
        ({"smapling": 0.5}, "unknown keys in `isplit`: smapling"),
        (["sampling"], "`isplit` must be a mapping, got list"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(section: object, match: str) -> None:
    with pytest.raises(ServingError, match=match):
        TailSettings.from_config({"isplit": section})


def test_the_store_comes_from_environment_then_yaml_then_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(STORE_VARIABLE, "sqlite:///a")
    assert store_url({"store": "sqlite:///b"}) == "sqlite:///a"
    monkeypatch.delenv(STORE_VARIABLE)
    assert store_url({"store": "sqlite:///b"}) == "sqlite:///b"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert (
        store_url({"store": None}) == store_url() == "sqlite:////state/isplit/isplit-store.sqlite3"
    )


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
