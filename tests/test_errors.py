from __future__ import annotations

import inspect
import re

import pytest

from isplit_plugin import errors
from isplit_plugin.errors import IsplitError, ProtocolError, UnknownModelError, from_json

_TREE_LINE = re.compile(r"^ {4}(?P<indent>[│├└─ ]*)(?P<name>\w+) +(?P<status>\d{3}) (?P<code>\w+)")


def test_the_tree_in_the_documentation_is_that_of_the_classes() -> None:
    documented: dict[str, tuple[str, int, str]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = _TREE_LINE.match(line)
        if match:
            path[len(match["indent"]) // 4 :] = [match["name"]]
            parent = path[-2] if len(path) > 1 else "Exception"
            documented[match["name"]] = (parent, int(match["status"]), match["code"])
    classes = {
        name: (cls.__bases__[0].__name__, cls.status, cls.code)
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, IsplitError)
    }
    assert documented == classes


def test_codes_are_unique_and_every_class_is_documented() -> None:
    classes = [
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, IsplitError)
    ]
    assert len({cls.code for cls in classes}) == len(classes)
    assert all(cls.__doc__ for cls in classes)


def test_an_error_survives_its_json() -> None:
    error = UnknownModelError.of("resnet51", ["resnet50", "vgg16"])
    assert error.message == "unknown model 'resnet51'; known: resnet50, vgg16"
    again = from_json(error.to_json(), status=error.status)
    assert type(again) is UnknownModelError
    assert (again.message, again.details) == (error.message, {"known": ["resnet50", "vgg16"]})


def test_long_lists_of_names_are_cut() -> None:
    error = UnknownModelError.of("x" * 300, range(100), limit=3)
    assert error.message == f"unknown model {'x' * 200!r}; known: 0, 1, 2, ... (100 in all)"
    assert error.details["known"] == ["0", "1", "2"]
    assert UnknownModelError.of("x", []).message == "unknown model 'x'; known: none"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"code": "nobody_has_this_code", "error": "a message"},
        {"code": 7, "error": ["no text"], "details": ["no mapping"]},
        {"code": None, "details": {"message": "a parameter of the constructor", "x": 1}},
    ],
)
def test_unknown_answers_become_protocol_errors(body: dict[str, object]) -> None:
    error = from_json(body, status=418)
    assert type(error) is ProtocolError
    is_text = isinstance(body.get("error"), str)
    assert error.message == (body["error"] if is_text else "HTTP 418 without a message")
