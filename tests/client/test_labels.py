"""Sending labels: in calls of a thousand, each answer told apart, and answers that are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toys.client import Server, answering

from isplit_plugin.cli import label, main
from isplit_plugin.client import send_labels
from isplit_plugin.errors import (
    LabelledBeforeError,
    LabelSecretError,
    ProtocolError,
    QueryError,
    UnknownRequestError,
)


def taking(handler: Any) -> None:
    """Answers like the endpoint: ids that begin with x are unknown, with y are labelled; class 0 is
    right.
    """
    asked = json.loads(handler.server.state.seen[-1].body)
    rows: list[dict[str, Any]] = []
    for item in asked["labels"]:
        kind = {
            "x": UnknownRequestError("nobody knows it"),
            "y": LabelledBeforeError("twice", label=1),
        }
        error = kind.get(item["request_id"][0])
        told = (
            {"class": item["class"], "correct": item["class"] == 0}
            if error is None
            else error.to_json()
        )
        rows.append({"request_id": item["request_id"], **told})
    answering(200, json.dumps({"labels": rows}).encode())(handler)


def test_each_label_is_told_apart(server: Server) -> None:
    server.state.always = taking
    labels: dict[str, int | str] = {"a": 0, "b": "owl", "x1": 0, "y1": 2}
    found = send_labels(server.url, labels, "the secret", "token")
    assert (found.taken, found.correct) == (2, 1)
    assert {name: type(error) for name, error in found.errors.items()} == {
        "x1": UnknownRequestError,
        "y1": LabelledBeforeError,
    }
    assert found.errors["y1"].details == {"label": 1}
    (seen,) = server.state.seen
    assert seen.path == "/predictions/isplit"
    assert json.loads(seen.body)["token"] == "the secret"
    assert seen.headers["Authorization"] == "Bearer token"


def test_many_go_in_calls_of_a_thousand(server: Server) -> None:
    server.state.always = taking
    found = send_labels(server.url, [(f"r{i}", i % 2) for i in range(2500)], "s")
    assert (found.taken, found.correct) == (2500, 1250)
    assert [len(json.loads(seen.body)["labels"]) for seen in server.state.seen] == [1000, 1000, 500]


def test_no_labels_ask_nobody(server: Server) -> None:
    assert send_labels(server.url, {}, "s").taken == 0
    assert server.state.seen == []


@pytest.mark.parametrize("bad", [("r", 1.5), (7, 1), ("r", None), ("r", True)])
def test_labels_are_checked_here(server: Server, bad: Any) -> None:
    with pytest.raises(QueryError, match="labels"):
        send_labels(server.url, [("r", 1), bad], "s")
    assert server.state.seen == []


def test_a_wrong_secret_is_the_servers_error(server: Server) -> None:
    server.state.always = answering(
        403, json.dumps(LabelSecretError("expected the secret").to_json()).encode()
    )
    with pytest.raises(LabelSecretError, match="expected the secret"):
        send_labels(server.url, {"r": 0}, "guess")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"labels": 1}', b'{"labels": []}', b'{"labels": [7]}']
)
def test_answers_that_are_none(server: Server, body: bytes) -> None:
    server.state.always = answering(200, body)
    with pytest.raises(ProtocolError):
        send_labels(server.url, {"r": 0}, "s")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    monkeypatch.setattr(label, "_KNOWN_AFTER_S", 0.0)
    secret = tmp_path / "secret"
    secret.write_text("a secret of labels\n")
    secret.chmod(0o600)

    def words(text: str) -> list[str]:
        (tmp_path / "labels.csv").write_text(text)
        return ["label", str(tmp_path / "labels.csv"), "--secret-file", str(secret)]

    return words


def test_the_command(
    server: Server, files: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    server.state.always = taking
    assert main([*files('a,0\n\nb,"owl, snowy"\nx1,3\n'), "--url", server.url]) == 0
    first, second = [json.loads(seen.body) for seen in server.state.seen]
    assert first == {
        "labels": [
            {"request_id": "a", "class": 0},
            {"request_id": "b", "class": "owl, snowy"},
            {"request_id": "x1", "class": 3},
        ],
        "token": "a secret of labels",
    }
    assert second == {**first, "labels": first["labels"][2:]}
    out = capsys.readouterr()
    assert out.out == "2 labels taken, 1 of them agree with the prediction\n"
    assert "refused: nobody knows it" in out.err
    assert main([*files("x1,3\n"), "--url", server.url, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["errors"]["x1"]["code"] == "unknown_request"


def test_a_request_that_becomes_known_is_labelled(
    server: Server, files: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"labels": [{"request_id": "x1", "class": 0, "correct": True}]}
    server.state.faults.extend([taking, answering(200, json.dumps(known).encode())])
    assert main([*files("a,1\nx1,0\n"), "--url", server.url]) == 0
    out = capsys.readouterr()
    assert out.out == "2 labels taken, 1 of them agree with the prediction\n"
    assert out.err == ""


def test_the_first_report_outlives_a_second_call_that_fails(
    server: Server, files: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    server.state.faults.append(taking)
    server.state.always = answering(403, b"")
    assert main([*files("a,0\nx1,3\n"), "--url", server.url, "--json"]) == 0
    out = capsys.readouterr()
    told = json.loads(out.out)
    assert (told["taken"], told["correct"]) == (1, 1)
    assert told["errors"]["x1"]["code"] == "unknown_request"
    assert "warning: 1 labels of unknown requests could not be sent once more" in out.err


@pytest.mark.parametrize("text", ["", "\n", "a\n", "a,1,2\n", ",1\n", "a,\n"])
def test_files_without_labels(
    text: str, files: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(files(text)) == 3
    assert "expected" in capsys.readouterr().err


def test_a_file_that_holds_another_secret_is_named(
    server: Server,
    files: Callable[[str], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = files("a,0\n")
    (tmp_path / "secret").write_text("-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END")
    assert main([*words, "--url", server.url]) == 3
    assert f"{tmp_path / 'secret'}: expected the secret for labels" in capsys.readouterr().err
    assert not server.state.seen
