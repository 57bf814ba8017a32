"""``isplit store models`` and ``isplit store forget``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys.traffic import CLASSES, NETWORK, manifest, observation, profile

from isplit_plugin.cli import main
from isplit_plugin.traffic import Delta, Store

SECOND = "0123456789abcdef" * 4


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store of two versions, of which 1.0 answered a request a moment ago."""
    monkeypatch.setenv("ISPLIT_STORE", str(tmp_path / "store.db"))
    with Store(tmp_path / "store.db") as opened:
        opened.put_network(manifest(), profile())
        opened.put_network(manifest(SECOND, version="2.0"), profile(network=SECOND))
        delta = Delta(opened.mean0(NETWORK), opened.half_life_s, CLASSES)
        delta.add_observation(observation(0, at=time.time()))
        opened.add(NETWORK, delta, manifest())
        yield opened


def versions(store: Store) -> list[str]:
    return [row.version for row in store.networks()]


def test_models_are_listed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "models"]) == 0
    _, _, first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:3] == ["toy", "1.0", "*"]
    assert first.endswith(" UTC")
    assert second.split()[:3] == ["toy", "2.0", SECOND[:20]]
    assert second.endswith("none yet")
    assert main(["store", "models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert [(row["version"], row["current"]) for row in rows] == [("1.0", True), ("2.0", False)]
    assert rows[1]["network_hash"] == SECOND


def test_a_dry_run_shows_what_would_go(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "forget", "toy", "--version", "1.0", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "served" in output
    assert "warning: toy 1.0 answered a request" in output
    assert "isplit unregister toy --version 1.0" in output
    assert output.endswith("nothing was deleted (--dry-run)\n")
    assert versions(store) == ["1.0", "2.0"]


def test_nobody_to_ask_is_no_consent(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "forget", "toy", "--version", "1.0"]) == 3
    assert "expected --yes or --dry-run" in capsys.readouterr().err
    assert versions(store) == ["1.0", "2.0"]


@pytest.mark.parametrize(("answer", "code"), [("", 1), ("n", 1), ("yes", 0), ("Y ", 0)])
def test_it_asks_before_it_deletes(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    code: int,
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    assert main(["store", "forget", "toy", "--network", SECOND[:12]]) == code
    output = capsys.readouterr().out
    assert "warning" not in output  # it never answered a request
    assert output.splitlines()[-1] == ("nothing was deleted" if code else "deleted")
    assert versions(store) == (["1.0", "2.0"] if code else ["1.0"])


def test_programs_get_json(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["store", "forget", "toy", "--version", "2.0", "--json"]
    assert main(command) == 3
    assert json.loads(capsys.readouterr().err)["code"] == "bad_query"
    for option, forgotten in (("--dry-run", False), ("--yes", True)):
        assert main([*command, option]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["forgotten"] is forgotten
        assert [row["version"] for row in report["versions"]] == ["2.0"]
        assert report["networks"] == [SECOND]
        assert report["rows"]["model"] == 1
    assert versions(store) == ["1.0"]


def test_shared_statistics_are_said_to_stay(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.put_network(manifest(version="1.1"), None)
    assert main(["store", "forget", "toy", "--version", "1.1", "--yes"]) == 0
    assert f"of network {NETWORK} stay: another version has it" in capsys.readouterr().out
    assert store.view(NETWORK).observations == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cat", "--version", "1.0"], "unknown model 'cat'; known: toy"),
        (["toy", "--version", "3.0"], "has no version 3.0; known: 1.0 (network"),
        (["toy", "--network", "012"], "at least 8 digits"),
        (["toy"], "expected --version or --network"),
    ],
)
def test_what_is_not_there(
    store: Store, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["store", "forget", *words, "--yes"]) == 3
    assert message in capsys.readouterr().err
    assert versions(store) == ["1.0", "2.0"]
