"""The endpoint's side of labels: a back office says what requests really showed, under a secret of its own."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ...device_tokens import read_secret
from ...errors import LabelSecretError, QueryError
from ...traffic import Store
from ...traffic.labels import MAX_LABELS, MAX_REQUEST_ID, Label, LabelResult
from ...wire import find_header
from .question import json_body

TOKEN_HEADER: Final = "isplit-label-token"  # noqa: S105 - a name
_FIELDS: Final = ("labels", "token")
_MAX_NAME: Final = 300


@dataclass(frozen=True, slots=True)
class LabelCall:
    """One call as it came: the list under ``labels``, and the secret from the body or the header."""

    labels: object
    token: str | None


def read_labels(row: Mapping[Any, Any], headers: Mapping[str, str]) -> LabelCall | None:
    """The call, if the body is one for labels. Raises QueryError where it has fields of none."""
    body = json_body(row)
    if body is None or "labels" not in body:
        return None
    unknown = [str(name) for name in body if name not in _FIELDS]
    if unknown:
        raise QueryError(
            f"body: unknown field {unknown[0][:100]!r}; known beside labels: token", field="body"
        )
    token = body.get("token")
    if token is None:
        token = find_header(headers, TOKEN_HEADER)
    if token is not None and not isinstance(token, str):
        raise QueryError(f"token: expected text, got {type(token).__name__}", field="token")
    return LabelCall(body["labels"], token)


def take_labels(store: Store, secret_file: str | None, call: LabelCall) -> dict[str, Any]:
    """Take what can be taken; the JSON answer, with an entry for each label in the order given.

    Raises LabelSecretError before anything else is looked at, QueryError where ``labels`` is no list of 1 to 1000,
    SecretError where the endpoint's own file cannot be used, StoreError. Nothing is stored then.
    """
    _check_secret(secret_file, call.token)
    items = call.labels
    if (
        not isinstance(items, Sequence)
        or isinstance(items, str | bytes)
        or not 0 < len(items) <= MAX_LABELS
    ):
        got = len(items) if isinstance(items, Sequence) else type(items).__name__
        raise QueryError(
            f"labels: expected a list of 1 to {MAX_LABELS} labels, got {got}", field="labels"
        )
    read = [_label(item) for item in items]
    good = [label for label in read if isinstance(label, Label)]
    told = iter(store.add_labels(good)) if good else iter(())
    out = [next(told) if isinstance(label, Label) else label for label in read]
    taken = sum(label.error is None for label in out)
    return {
        "labelled": taken,
        "refused": len(out) - taken,
        "labels": [label.to_json() for label in out],
    }


def _check_secret(secret_file: str | None, token: str | None) -> None:
    if secret_file is None:
        raise LabelSecretError(
            "labels need a secret (ISPLIT_LABEL_SECRET_FILE), and this endpoint has none"
        )
    if token is None:
        raise LabelSecretError(
            f"expected the secret of labels as `token` or in the header {TOKEN_HEADER}, got none"
        )
    # Read at each call, so that a new secret needs no restart.
    if not hmac.compare_digest(token.strip().encode(), read_secret(secret_file)):
        raise LabelSecretError("expected the secret of labels, got another one")


def _label(item: object) -> Label | LabelResult:
    """One label, or what is wrong with it."""
    shown = item.get("request_id") if isinstance(item, Mapping) else None
    request_id = shown if isinstance(shown, str) else ""
    try:
        if not isinstance(item, Mapping) or set(item) != {"request_id", "class"}:
            raise QueryError(
                f"expected {{request_id, class}}, got {str(item)[:100]}", field="labels"
            )
        if not 0 < len(request_id) <= MAX_REQUEST_ID:
            raise QueryError(
                f"request_id: expected 1 to {MAX_REQUEST_ID} characters, got {str(shown)[:100]!r}"
            )
        class_id = item["class"]
        if (
            isinstance(class_id, bool)
            or not isinstance(class_id, int | str)
            or len(str(class_id)[:400]) > _MAX_NAME
        ):
            raise QueryError(
                f"class: expected an id or a label, got {str(class_id)[:100]!r}", field="class"
            )
        return Label(request_id, class_id)
    except QueryError as error:
        return LabelResult(request_id[:MAX_REQUEST_ID], error=error)
