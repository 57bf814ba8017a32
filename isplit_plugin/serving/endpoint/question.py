"""From one row of TorchServe's batch to a question: path, query parameters or JSON, bounded and
read strictly.

A question arrives in three ways, and the handler cannot see which HTTP method carried it:

- ``GET /predictions/isplit/1.0/<path>``: TorchServe hands over the path as the header ``url_path``,
  URL-decoded;
- ``GET /models/isplit/invoke?model=...``: query parameters arrive as parts of the data;
- ``POST /predictions/isplit`` with a JSON object.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ...advice import MAX_CLASSES, Constraints, Query
from ...errors import QueryError, UnknownNameError
from ...wire import find_header
from .body import check_name, read_text, show
from .routes import ROUTES

MAX_PATH: Final = 16_384
MAX_NAME: Final = 200

TOPICS: Final = (
    "help",
    "models",
    "recommendations",
    "classes",
    "curves",
    "accuracy",
    "groups",
    "changes",
    "exits",
    "exit",
    "release",
)

_CONSTRAINTS: Final = tuple(f.name for f in dataclasses.fields(Constraints))
_TEXTS: Final = ("group", "rule", "candidate_set", "predictor", "mix")
_FIELDS: Final = ("model", "version", "network_hash", "classes", *_TEXTS, "constraints")
_PATH: Final = ("version", "network_hash", "classes", "hash", *_TEXTS)
_OF_EXITS: Final = ("exit", "release")
"""Topics about one version of an exit, which the path names by its hash."""
_PARAMETERS: Final = (
    "model",
    "version",
    "network_hash",
    "class",
    "classes",
    *_TEXTS,
    *_CONSTRAINTS,
)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked (one of ``TOPICS``), about which model, version and network, and the query.

    Without version and network, it is about the current version of the model. ``exit``: the hash of
    an exit's version, for the topics that are about one.
    """

    topic: str
    model: str = ""
    version: str | None = None
    network_hash: str | None = None
    query: Query = field(default_factory=Query)
    exit: str = ""

    def key(self) -> str:
        """Equal for equal questions."""
        subject = [self.topic, self.model, self.version, self.network_hash, self.exit]
        return json.dumps([*subject, self.query.to_json()], sort_keys=True)


def read_question(
    row: Mapping[Any, Any], headers: Mapping[str, str], body: Mapping[Any, Any] | None
) -> Question:
    """Read a question from the path, and from the body or the query parameters.

    ``body``: the parsed JSON body, ``None`` without one. Raises QueryError naming the field, and
    UnknownNameError for a path that leads nowhere.
    """
    topic, path_fields = _path(find_header(headers, "url_path") or "")
    fields = _parameters(row) if body is None else _body_fields(body)
    if not fields and (find_header(headers, "Content-Length") or "0").strip("0"):
        # TorchServe reads a body that calls itself a form, and drops what is no name=value.
        raise QueryError(
            "body: expected JSON with Content-Type application/json, got none", field="body"
        )
    for name in fields.keys() & path_fields.keys():
        if fields[name] != path_fields[name]:
            raise QueryError(
                f"{name}: expected it once, got {show(path_fields[name])} and {show(fields[name])}",
                field=name,
            )
    fields = {**path_fields, **fields}
    if topic is None:
        topic = "recommendations" if fields else "help"
    if topic == "help" or (topic == "models" and "model" not in fields):
        return Question(topic)
    if topic == "models":
        return Question(topic, read_text("model", fields["model"], MAX_NAME))
    if "model" not in fields:
        raise QueryError(
            f"model: expected a model's name, got none; {topic}/<model>", field="model"
        )
    names = {
        name: read_text(name, fields[name], MAX_NAME)
        for name in ("model", "version", "network_hash")
        if fields.get(name) is not None
    }
    if "/" in names["model"]:
        raise QueryError(
            f"model: expected a name alone, got {show(names['model'])}: the version is a field "
            "of its own, `version`",
            field="model",
        )
    exit_hash = ""
    if (topic in _OF_EXITS) != ("hash" in fields):
        expected = "the hash of an exit" if topic in _OF_EXITS else "no hash"
        raise QueryError(f"hash: expected {expected} behind {topic}/<model>", field="hash")
    if topic in _OF_EXITS:
        exit_hash = read_text("hash", fields["hash"], MAX_NAME)
    return Question(topic, **names, query=_query(fields), exit=exit_hash)


def _path(raw: str) -> tuple[str | None, dict[str, Any]]:
    """``topic/model/name/value/...`` as a topic and fields."""
    if len(raw) > MAX_PATH:
        raise QueryError(
            f"path: expected at most {MAX_PATH} characters, got {len(raw)}", field="path"
        )
    parts = raw.partition("?")[0].strip("/").split("/")
    if parts == [""]:
        return None, {}
    topic, *rest = parts
    if topic not in TOPICS:
        raise UnknownNameError.of(topic, ROUTES)
    if len(rest) > {"help": 0, "models": 1}.get(topic, MAX_PATH):
        raise UnknownNameError.of("/".join(parts), ROUTES)
    fields: dict[str, Any] = {}
    if rest:
        model, *rest = rest
        fields["model"] = model
    if len(rest) % 2:
        raise QueryError(f"path: expected a value after {show(rest[-1])}", field="path")
    for name, value in zip(rest[::2], rest[1::2], strict=True):
        check_name(name, _PATH, "path")
        if name in fields:
            raise QueryError(f"{name}: expected it once, got it twice", field=name)
        fields[name] = _ids(value) if name == "classes" else value
    return topic, fields


def _body_fields(body: Mapping[Any, Any]) -> dict[str, Any]:
    """The fields of a JSON body. A single class id is a list of one."""
    for name in body:
        check_name(name, _FIELDS, "body")
    fields = {name: value for name, value in body.items() if value is not None}
    classes = fields.get("classes")
    if isinstance(classes, int) and not isinstance(classes, bool):
        fields["classes"] = [classes]
    return fields


def _parameters(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The fields of a query string. Numbers arrive as text."""
    fields: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for name, raw in row.items():
        if name in ("body", "data"):
            continue
        check_name(name, _PARAMETERS, "query string")
        value = _decoded(name, raw)
        if name in ("class", "classes"):
            if "classes" in fields:
                raise QueryError(
                    "classes: expected one of `class` and `classes`, got both", field="classes"
                )
            fields["classes"] = _ids(value)
        elif name in _CONSTRAINTS:
            limits[name] = value if name == "objective" else _float(name, value)
        else:
            fields[name] = value
    if limits:
        fields["constraints"] = limits
    return fields


def _query(fields: Mapping[str, Any]) -> Query:
    classes = fields.get("classes")
    if classes is not None:
        if isinstance(classes, str) or not isinstance(classes, Sequence):
            raise QueryError(
                f"classes: expected a list of class ids, got {show(classes)}", field="classes"
            )
        if len(classes) > MAX_CLASSES:
            raise QueryError(
                f"classes: expected 1 to {MAX_CLASSES} class ids, got {len(classes)}",
                field="classes",
            )
    limits = fields.get("constraints", {})
    if not isinstance(limits, Mapping):
        raise QueryError(
            f"constraints: expected an object, got {type(limits).__name__}", field="constraints"
        )
    for name in limits:
        check_name(name, _CONSTRAINTS, "constraints")
    return Query(
        classes=None if classes is None else tuple(classes),
        constraints=Constraints(
            **{name: value for name, value in limits.items() if value is not None}
        ),
        **{name: read_text(name, fields[name], MAX_NAME) for name in _TEXTS if name in fields},
    )


def _ids(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",", MAX_CLASSES + 1)]
    if len(words) > MAX_CLASSES:
        raise QueryError(
            f"classes: expected 1 to {MAX_CLASSES} class ids, got more", field="classes"
        )
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) < 10):
            raise QueryError(
                f"classes: expected ids like 281,282, got {show(word)}; classes/<model> lists ids and labels",
                field="classes",
            )
    return [int(word) for word in words]


def _float(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise QueryError(f"{name}: expected a number, got {show(text)}", field=name) from None


def _decoded(name: str, raw: object) -> str:
    if isinstance(raw, bytes | bytearray | memoryview):
        if len(raw) > MAX_PATH:
            raise QueryError(
                f"{name}: expected at most {MAX_PATH} bytes, got {len(raw)}", field=name
            )
        try:
            return bytes(raw).decode()
        except UnicodeDecodeError:
            raise QueryError(f"{name}: expected UTF-8 text", field=name) from None
    if isinstance(raw, str | int | float) and len(str(raw)) <= MAX_PATH:
        return str(raw)
    raise QueryError(f"{name}: expected text, got {type(raw).__name__}", field=name)
