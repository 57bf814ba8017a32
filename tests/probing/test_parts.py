"""Probes as an optional part: absent unless turned on, refused with a reason where they are off."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toys.context import Context

from isplit_plugin.device_tokens import new_secret
from isplit_plugin.serving.endpoint import Endpoint


def context_of(config: dict[str, Any]) -> Context:
    return Context(config={"isplit": config})


def ask(context: Context, body: object) -> dict[str, Any]:
    endpoint = Endpoint(context)
    try:
        [answer] = endpoint.handle([{"body": body}], context)
    finally:
        endpoint.close()
    result: dict[str, Any] = json.loads(answer)
    return result


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return {"store": f"sqlite:///{tmp_path / 'store.db'}"}


def test_without_a_secret_a_report_is_refused_with_the_reason(config: dict[str, Any]) -> None:
    answer = ask(context_of(config), {"probe": {}})
    assert answer["code"] == "probe_refused"
    assert "ISPLIT_SECRET_FILE" in answer["error"]


def test_with_a_secret_a_body_with_a_report_reaches_the_part(
    config: dict[str, Any], tmp_path: Path
) -> None:
    config["secret_file"] = str(new_secret(tmp_path / "secret"))
    bodies: list[object] = [
        {"probe": {}},
        {"probe": None},
        bytearray(b'{"probe": {"ticket": 1}}'),
    ]
    for body in bodies:
        context = context_of(config)
        assert "ticket" in ask(context, body)["error"] or "report" in ask(context, body)["error"]
        assert context.status == 400


def test_a_report_comes_alone(config: dict[str, Any], tmp_path: Path) -> None:
    config["secret_file"] = str(new_secret(tmp_path / "secret"))
    answer = ask(context_of(config), {"probe": {}, "model": "toy"})
    assert "alone" in answer["error"]


def test_a_body_that_is_too_long_or_not_json_is_refused(config: dict[str, Any]) -> None:
    context = context_of(config)
    long = bytearray(b'{"probe"' + b" " * 300_000 + b":1}")
    for body, expected in ((long, "at most"), (bytearray(b'{"probe": {"v": NaN}}'), "NaN")):
        assert expected in ask(context, body)["error"]
        assert context.status == 400


def test_tail_and_endpoint_without_probes_never_import_them() -> None:
    code = """
import sys
import isplit_plugin.serving.tail, isplit_plugin.serving.endpoint, isplit_plugin.serving.packaging
import isplit_plugin.traffic, isplit_plugin.client
print([name for name in sys.modules if name.startswith("isplit_plugin.probing")])
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600
    )
    assert run.stdout.strip() == "[]"
