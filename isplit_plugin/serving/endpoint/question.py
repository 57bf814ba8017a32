"""From one row of TorchServe's batch to a question: path, query parameters or JSON, bounded and read strictly.

A question arrives in three ways, and the handler cannot see which HTTP method carried it:

- ``GET /predictions/isplit/1.0/<path>``: TorchServe hands over the path as the header ``url_path``, URL-decoded;
- ``GET /models/isplit/invoke?model=...``: query parameters arrive as parts of the data;
- ``POST /predictions/isplit`` with a JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, NoReturn

from ...advice import MAX_CLASSES, Constraints, Query
from ...errors import QueryError, UnknownNameError
from ...wire import find_header
from ..replies import request_body

MAX_BODY: Final = 262_144
MAX_PATH: Final = 16_384
MAX_NAME: Final = 200

ROUTES: Final[Mapping[str, str]] = {
    "help": "this page",
    "models": "the models in the store",
    "recommendations/<model>": "what to use now and where a bottleneck is worth placing, for the live mix of classes",
    "recommendations/<model>/classes/<id>[,<id>...]": "the same for these classes",
    "classes/<model>": "class ids, labels and how often each was seen",
    "curves/<model>/classes/<id>[,<id>...]": "the CUI curve of each of these classes",
    "accuracy/<model>[/classes/<id>[,<id>...]]": "measured accuracy from labels, by served point, codec and class",
    "groups/<model>": "the device groups that were seen",
    "changes/<model>[/group/<name>]": "the picks in force for the live mix, and what brought them",
}
TOPICS: Final = (
    "help",
    "models",
    "recommendations",
    "classes",
    "curves",
    "accuracy",
    "groups",
    "changes",
)

_CONSTRAINTS: Final = tuple(f.name for f in fields(Constraints))
_TEXTS: Final = ("group", "rule", "candidate_set", "predictor", "mix")
_FIELDS: Final = ("model", "version", "classes", *_TEXTS, "constraints")
_PATH: Final = ("version", "classes", *_TEXTS)
_PARAMETERS: Final = ("model", "version", "class", "classes", *_TEXTS, *_CONSTRAINTS)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked (one of ``TOPICS``), about which model and version (``None``: the last one put), and the query."""

    topic: str
    model: str = ""
    version: str | None = None
    query: Query = field(default_factory=Query)

    def key(self) -> str:
        """Equal for equal questions."""
        return json.dumps(
            [self.topic, self.model, self.version, self.query.to_json()], sort_keys=True
        )


def read_question(row: Mapping[Any, Any], headers: Mapping[str, str]) -> Question:
    """Read one row. Raises QueryError naming the field, UnknownNameError for a path that leads nowhere."""
    topic, asked = _path(find_header(headers, "url_path") or "")
    told = _body(row)
    if told is None:
        told = _parameters(row)
    if not told and (find_header(headers, "Content-Length") or "0").strip("0"):
        # TorchServe reads a body that calls itself a form, and drops what is no name=value.
        raise QueryError(
            "body: expected JSON with Content-Type application/json, got none", field="body"
        )
    for name in told.keys() & asked.keys():
        if told[name] != asked[name]:
            raise QueryError(
                f"{name}: expected it once, got {_show(asked[name])} and {_show(told[name])}",
                field=name,
            )
    asked = {**asked, **told}
    if topic is None:
        topic = "recommendations" if asked else "help"
    if topic in ("help", "models"):
        return Question(topic)
    if "model" not in asked:
        raise QueryError(
            f"model: expected a model's name, got none; {topic}/<model>", field="model"
        )
    version = None if asked.get("version") is None else _text("version", asked["version"])
    return Question(topic, _text("model", asked["model"]), version, _query(asked))


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
    if topic in ("help", "models"):
        if rest:
            raise UnknownNameError.of("/".join(parts), ROUTES)
        return topic, {}
    found: dict[str, Any] = {}
    if rest:
        model, *rest = rest
        found["model"] = model
    if len(rest) % 2:
        raise QueryError(f"path: expected a value after {_show(rest[-1])}", field="path")
    for name, value in zip(rest[::2], rest[1::2], strict=True):
        _known(name, _PATH, "path")
        if name in found:
            raise QueryError(f"{name}: expected it once, got it twice", field=name)
        found[name] = _ids(value) if name == "classes" else value
    return topic, found


def json_body(row: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
    """The object of a JSON body, ``None`` without a body. Raises QueryError."""
    body = request_body(row)
    if isinstance(body, bytes | bytearray | memoryview):
        if not len(body):
            return None
        if len(body) > MAX_BODY:
            raise QueryError(
                f"body: expected at most {MAX_BODY} bytes, got {len(body)}", field="body"
            )
        try:
            body = json.loads(bytes(body), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise QueryError(
                f"body: expected a JSON object with Content-Type application/json ({error})",
                field="body",
            ) from error
    if body is not None and not isinstance(body, Mapping):
        raise QueryError(f"body: expected a JSON object, got {type(body).__name__}", field="body")
    return body


def _body(row: Mapping[Any, Any]) -> dict[str, Any] | None:
    """The fields of a JSON body, ``None`` without one."""
    body = json_body(row)
    if body is None:
        return None
    for name in body:
        _known(name, _FIELDS, "body")
    found = {name: value for name, value in body.items() if value is not None}
    if (
        "classes" in found
        and isinstance(found["classes"], int)
        and not isinstance(found["classes"], bool)
    ):
        found["classes"] = [found["classes"]]
    return found


def _parameters(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The fields of a query string. Numbers arrive as text."""
    found: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for name, raw in row.items():
        if name in ("body", "data"):
            continue
        _known(name, _PARAMETERS, "query string")
        value = _decoded(name, raw)
        if name in ("class", "classes"):
            if "classes" in found:
                raise QueryError(
                    "classes: expected one of `class` and `classes`, got both", field="classes"
                )
            found["classes"] = _ids(value)
        elif name in _CONSTRAINTS:
            limits[name] = value if name == "objective" else _float(name, value)
        else:
            found[name] = value
    if limits:
        found["constraints"] = limits
    return found


def _query(asked: Mapping[str, Any]) -> Query:
    classes = asked.get("classes")
    if classes is not None:
        if isinstance(classes, str) or not isinstance(classes, Sequence):
            raise QueryError(
                f"classes: expected a list of class ids, got {_show(classes)}", field="classes"
            )
        if len(classes) > MAX_CLASSES:
            raise QueryError(
                f"classes: expected 1 to {MAX_CLASSES} class ids, got {len(classes)}",
                field="classes",
            )
    limits = asked.get("constraints", {})
    if not isinstance(limits, Mapping):
        raise QueryError(
            f"constraints: expected an object, got {type(limits).__name__}", field="constraints"
        )
    for name in limits:
        _known(name, _CONSTRAINTS, "constraints")
    return Query(
        classes=None if classes is None else tuple(classes),
        constraints=Constraints(
            **{name: value for name, value in limits.items() if value is not None}
        ),
        **{name: _text(name, asked[name]) for name in _TEXTS if name in asked},
    )


def _known(name: object, names: Sequence[str], where: str) -> None:
    if name not in names:
        raise QueryError(
            f"{where}: unknown field {_show(name)}; known: {', '.join(names)}", field=_show(name)
        )


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        raise QueryError(
            f"{name}: expected 1 to {MAX_NAME} characters, got {_show(value)}", field=name
        )
    return value


def _ids(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",", MAX_CLASSES + 1)]
    if len(words) > MAX_CLASSES:
        raise QueryError(
            f"classes: expected 1 to {MAX_CLASSES} class ids, got more", field="classes"
        )
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) < 10):
            raise QueryError(
                f"classes: expected ids like 281,282, got {_show(word)}; classes/<model> lists ids and labels",
                field="classes",
            )
    return [int(word) for word in words]


def _float(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise QueryError(f"{name}: expected a number, got {_show(text)}", field=name) from None


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


def _show(value: object) -> str:
    return repr(value if isinstance(value, str) else str(value))[:100]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
