"""Labels at the endpoint: a back office sends the true classes of requests, under a secret of its
own.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ...device_tokens import read_secret
from ...errors import LabelSecretError, QueryError
from ...traffic import MAX_LABELS, MAX_REQUEST_ID, Label, LabelResult, Store
from ...wire import find_header
from .body import check_name, read_text, show

TOKEN_HEADER: Final = "isplit-label-token"  # noqa: S105 - a name
_FIELDS: Final = ("labels", "token")
_MAX_NAME: Final = 300


@dataclass(frozen=True, slots=True)
class LabelCall:
    """The value under ``labels``, unchecked, and the secret from the body or the header."""

    labels: object
    token: str | None


def read_labels(body: Mapping[Any, Any], headers: Mapping[str, str]) -> LabelCall:
    """The call in a body that has ``labels``.

    Raises QueryError for a field that does not belong there.
    """
    for name in body:
        check_name(name, _FIELDS, "body")
    token = body.get("token")
    if token is None:
        token = find_header(headers, TOKEN_HEADER)
    if token is not None and (not isinstance(token, str) or not token.strip().isprintable()):
        # What was sent may be a secret: no answer repeats it.
        raise QueryError("token: expected printable text", field="token")
    return LabelCall(body["labels"], token)


def take_labels(store: Store, secret_file: str | None, call: LabelCall) -> dict[str, Any]:
    """Store the labels that can be stored. The JSON answer has an entry for each label, in the
    order given.

    Raises:
        LabelSecretError: the secret is missing or another one. It is checked before anything else.
        QueryError: ``labels`` is not a list of 1 to 1000 labels.
        SecretError: the endpoint's own secret file cannot be used.
        StoreError: the store takes no writes. Nothing is stored then.
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
    labels = [_label(item) for item in items]
    readable = [label for label in labels if isinstance(label, Label)]
    stored = iter(store.add_labels(readable) if readable else ())
    results = [next(stored) if isinstance(label, Label) else label for label in labels]
    labelled = sum(result.error is None for result in results)
    return {
        "labelled": labelled,
        "refused": len(results) - labelled,
        "labels": [result.to_json() for result in results],
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
    if not hmac.compare_digest(
        token.strip().encode(errors="surrogatepass"), read_secret(secret_file)
    ):
        raise LabelSecretError("expected the secret of labels, got another one")


def _label(item: object) -> Label | LabelResult:
    """One label, or the result that says what is wrong with it."""
    value = item.get("request_id") if isinstance(item, Mapping) else None
    request_id = value if isinstance(value, str) else ""
    try:
        if not isinstance(item, Mapping) or set(item) != {"request_id", "class"}:
            raise QueryError(
                f"labels: expected {{request_id, class}}, got {show(item)}", field="labels"
            )
        read_text("request_id", value, MAX_REQUEST_ID)
        class_id = item["class"]
        if (
            isinstance(class_id, bool)
            or not isinstance(class_id, int | str)
            or len(str(class_id)[:400]) > _MAX_NAME
            or (isinstance(class_id, str) and not _is_utf8(class_id))
        ):
            raise QueryError(
                f"class: expected an id or a label, got {show(class_id)}", field="class"
            )
        return Label(request_id, class_id)
    except QueryError as error:
        return LabelResult(request_id[:MAX_REQUEST_ID], error=error)


def _is_utf8(text: str) -> bool:
    """Whether UTF-8 can express the text, without NUL."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
