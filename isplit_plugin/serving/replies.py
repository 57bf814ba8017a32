"""Requests and answers of a handler: body, headers, status, and lines of the log."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from ..errors import (
    ArtifactError,
    IsplitError,
    ServingError,
    StoreBusyError,
    StoreError,
    WireSizeError,
)
from ..wire import HEADER, find_header

JSON_TYPE: Final = "application/json"
_LOGGER = logging.getLogger(__name__)
_MAX_LOG: Final = 600
_DESCRIBE: Final = "describe"
_INTERNAL: Final = (StoreError, ArtifactError, ServingError)
"""Errors whose messages name paths and addresses of the server. No answer holds them."""


def request_headers(context: Any, index: int) -> dict[str, str]:
    """The headers of one request of a batch.

    For multipart requests TorchServe adds entries that are not text; they are left out.
    """
    headers = context.get_all_request_header(index)
    return {
        name: value
        for name, value in headers.items()
        if isinstance(name, str) and isinstance(value, str)
    }


def request_body(row: Mapping[Any, Any]) -> Any:
    """The body of one request; ``None`` if it has none. An empty body is a body.

    Returns a buffer, or the object of a JSON body, which TorchServe has parsed already.
    """
    for key in ("body", "data"):
        if key in row:
            body = row[key]
            # JSON has strings that UTF-8 cannot express. They are refused later, with all others.
            return body.encode(errors="surrogatepass") if isinstance(body, str) else body
    return None


def is_describe(row: Mapping[Any, Any], headers: Mapping[str, str]) -> bool:
    """Whether a request is a describe call of TorchServe's management port.

    TorchServe marks a describe call by a header, and a client of the inference port can send the
    same header. But a describe call has no parts. A request to the inference port has at least the
    part ``body``, except where its content type is that of a form. So a request that has parts or
    names a content type is none.
    """
    return (
        not row
        and headers.get(_DESCRIBE) == "True"
        and find_header(headers, "Content-Type") is None
    )


def json_answer(context: Any, index: int, body: Any) -> str:
    """An answer in JSON. Raises ValueError for NaN and infinities, which JSON cannot express."""
    context.set_response_content_type(index, JSON_TYPE)
    return json.dumps(body, allow_nan=False, separators=(",", ":"))


def tensor_answer(
    context: Any, index: int, body: bytes, json_length: int | None, *, limit: int
) -> bytes:
    """An encoded OIP v2 answer.

    Raises:
        WireSizeError: it has more than ``limit`` bytes. TorchServe would end the worker.
    """
    if len(body) > limit:
        raise WireSizeError(
            f"expected an answer of at most {limit} bytes, got {len(body)}: ask for fewer items or "
            "without scores",
            limit=limit,
        )
    if json_length is None:
        context.set_response_content_type(index, JSON_TYPE)
    else:
        context.set_response_content_type(index, "application/octet-stream")
        context.set_response_header(index, HEADER, str(json_length))
    return body


def error_answer(context: Any, index: int, error: BaseException) -> tuple[str, str]:
    """The answer to a request that failed, and the error's code.

    Other requests of the batch are not affected. An error that is not an IsplitError becomes a
    plain 500. Its text goes to the server's log only, and so does that of an error of the store, of
    a file or of the configuration, which names places on the server.
    """
    if not isinstance(error, IsplitError):
        frames = traceback.extract_tb(error.__traceback__)
        where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        _LOGGER.error("isplit: unexpected %s%s: %s", type(error).__name__, where, one_line(error))
        error = IsplitError("the server failed to answer this request; its log says why")
    elif isinstance(error, _INTERNAL):
        _LOGGER.error("isplit: %s: %s", error.code, one_line(error.message))
        error = type(error)(_public_message(error))
    status = HTTPStatus(error.status)
    context.set_response_status(status.value, status.phrase, index)
    try:
        return json_answer(context, index, error.to_json()), error.code
    except (ValueError, TypeError):  # details that JSON cannot express
        return json_answer(context, index, {"error": error.message, "code": error.code}), error.code


def _public_message(error: IsplitError) -> str:
    if isinstance(error, StoreBusyError):
        return "another writer holds the store, and nothing was written: try again"
    what = "the store" if isinstance(error, StoreError) else "a file or a setting of the server"
    return f"{what} cannot be used now; the server's log says why"


def one_line(text: object, *, limit: int = _MAX_LOG) -> str:
    """The start of a text, with blanks for line breaks and control characters.

    TorchServe parses the worker's output line by line. A line that a client composed could pass for
    a metric or a process id.
    """
    return "".join(c if c.isprintable() else " " for c in str(text)[:limit])
