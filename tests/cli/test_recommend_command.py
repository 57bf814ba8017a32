"""``isplit recommend --classes``: ids, labels, or both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from toys.client import recommendation
from toys.management import ManagementServer, management_server

from isplit_plugin.cli import main

_ENDPOINT = "/predictions/isplit/1.0"
_LABELS = ("goldfish", "crane", "tabby, tabby cat", "crane", "7")


@pytest.fixture
def server() -> Iterator[ManagementServer]:
    """An endpoint that knows the model's classes, and answers every question about them."""
    with management_server() as running:
        rows = [{"id": class_id, "label": label} for class_id, label in enumerate(_LABELS)]
        running.answers["GET", f"{_ENDPOINT}/classes/toy"] = (200, {"classes": rows})
        for ids in ("0", "2", "0,3", "7"):
            path = f"{_ENDPOINT}/recommendations/toy/classes/{ids}"
            running.answers["GET", path] = (200, recommendation().to_json())
        yield running


def _ask(server: ManagementServer, classes: str) -> int:
    return main(["recommend", "toy", "--url", server.url, "--classes", classes])


@pytest.mark.parametrize(
    ("classes", "ids"),
    [("goldfish", "0"), (" goldfish , 3", "0,3"), ("tabby, tabby cat", "2")],
)
def test_labels_are_looked_up(server: ManagementServer, classes: str, ids: str) -> None:
    assert _ask(server, classes) == 0
    assert [call.path for call in server.calls] == [
        f"{_ENDPOINT}/classes/toy",
        f"{_ENDPOINT}/recommendations/toy/classes/{ids}",
    ]


def test_a_version_is_asked_for_in_both_questions(server: ManagementServer) -> None:
    rows = [{"id": 4, "label": "heron"}]
    server.answers["GET", f"{_ENDPOINT}/classes/toy/version/2.0"] = (200, {"classes": rows})
    path = f"{_ENDPOINT}/recommendations/toy/version/2.0/classes/4"
    server.answers["GET", path] = (200, recommendation(version="2.0").to_json())
    words = ["recommend", "toy", "--url", server.url, "--version", "2.0", "--classes", "heron"]
    assert main(words) == 0
    assert server.calls[-1].path == path


def test_a_model_with_a_version_is_refused(
    server: ManagementServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", "toy/2.0", "--url", server.url]) == 3
    assert "version='2.0'" in capsys.readouterr().err
    assert server.calls == []


def test_ids_need_no_lookup(server: ManagementServer) -> None:
    assert _ask(server, "7") == 0
    assert [call.path for call in server.calls] == [f"{_ENDPOINT}/recommendations/toy/classes/7"]


def test_an_unknown_label_names_the_known_ones(
    server: ManagementServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _ask(server, "goldfsh") == 3
    assert "unknown class 'goldfsh'; known: goldfish, crane" in capsys.readouterr().err


def test_a_label_of_two_classes_needs_an_id(
    server: ManagementServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _ask(server, "crane") == 3
    assert "give an id, one of 1, 3" in capsys.readouterr().err


def test_an_answer_of_something_else_is_a_protocol_error(
    server: ManagementServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["GET", f"{_ENDPOINT}/classes/toy"] = (200, {"message": "hello"})
    assert _ask(server, "goldfish") == 4
    assert "list of classes" in capsys.readouterr().err
