"""What a forwarder passes on: a few methods and paths, and nothing that reads as another one.

A path is taken apart, decoded once, checked, and put together again, so TorchServe sees the path
that was checked and no other.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from ..errors import UnknownModelError, UnknownRouteError, WireError
from ..serving.launcher import ENDPOINT_MODEL

_MAX_TARGET: Final = 4096
_BODY: Final = ("POST", "PUT")
_KNOWN: Final = (
    "POST /predictions/<model>[/<version>]",
    "POST /v2/models/<model>/infer",
    "POST /explanations/<model>[/<version>] (where explanations are on)",
    "GET /predictions/isplit/1.0/<question>/<model>...",
    "POST /predictions/isplit",
    "GET /ping",
)


class Kind(Enum):
    """What a request is."""

    PREDICTION = "prediction"
    """A prediction, probe or explanation: the body goes to a tail."""
    QUESTION = "question"
    """A question in the path."""
    MESSAGE = "message"
    """A question, labels or a report of a probe as JSON."""


@dataclass(frozen=True, slots=True)
class Route:
    """A request that may be passed on, and the path for TorchServe."""

    kind: Kind
    path: str


def is_ping(method: str, target: str) -> bool:
    """Whether this asks for the forwarder's health, which needs no token."""
    return (method, target) == ("GET", "/ping")


def read_route(
    method: str, target: str, models: Collection[str], *, explanations: bool = False
) -> Route:
    """The route of a request.

    Parameters:
        target: the request target as it was sent.
        models: the models that devices may use.

    Raises:
        WireError: the target is not a plain path.
        UnknownRouteError: nothing is passed on under this method and path.
        UnknownModelError: the path names another model.
    """
    segments = _segments(target)
    kind = _kind(method, segments, explanations=explanations)
    if kind is None:
        raise UnknownRouteError.of(f"{method[:20]} {target[:100]}", _KNOWN)
    if kind is Kind.PREDICTION:
        check_model(segments[2] if segments[0] == "v2" else segments[1], models)
    elif kind is Kind.QUESTION and segments[3:] != ["help"]:
        check_model(segments[4] if len(segments) > 4 else "", models)
    return Route(kind, "/" + "/".join(quote(segment, safe=",:@~") for segment in segments))


def check_model(name: object, models: Collection[str]) -> None:
    """Raise UnknownModelError for a model that devices may not use."""
    if not isinstance(name, str) or name not in models:
        raise UnknownModelError.of(name, sorted(models))


def _kind(method: str, segments: list[str], *, explanations: bool) -> Kind | None:
    match segments:
        case ["predictions", name] if name == ENDPOINT_MODEL:
            return Kind.MESSAGE if method in _BODY else None
        case ["predictions", name, _, _, *_] if name == ENDPOINT_MODEL:
            return Kind.QUESTION if method == "GET" else None
        case ["predictions", name] | ["predictions", name, _] if name != ENDPOINT_MODEL:
            return Kind.PREDICTION if method in _BODY else None
        case ["v2", "models", name, "infer"] if name != ENDPOINT_MODEL:
            return Kind.PREDICTION if method == "POST" else None
        case ["explanations", name] | ["explanations", name, _] if name != ENDPOINT_MODEL:
            return Kind.PREDICTION if method in _BODY and explanations else None
    return None


def _segments(target: str) -> list[str]:
    """The decoded parts of a path. Raises WireError."""
    if not target.startswith("/") or not target.isascii() or len(target) > _MAX_TARGET:
        raise _bad(target, f"expected a path of at most {_MAX_TARGET} ASCII characters")
    if "?" in target or "#" in target:
        raise _bad(target, "expected no query string: questions go as a path or as JSON in a POST")
    return [_segment(raw, target) for raw in target[1:].split("/")]


def _segment(raw: str, target: str) -> str:
    """One decoded part of a path, which means the same however often it is decoded."""
    try:
        text = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise _bad(target, "expected UTF-8") from None
    if text in ("", ".", "..") or not text.isprintable() or not {"/", "\\", "%"}.isdisjoint(text):
        raise _bad(target, "expected plain names between the slashes")
    return text


def _bad(target: str, expected: str) -> WireError:
    return WireError(f"path {target[:100]!a}: {expected}")
