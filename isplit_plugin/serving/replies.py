"""How a handler answers one request of a batch: body, headers, status, and what goes into the log."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from ..errors import IsplitError, WireSizeError
from ..wire import HEADER

JSON_TYPE: Final = "application/json"
_LOGGER = logging.getLogger(__name__)
_MAX_LOG: Final = 600


def one_line(text: object, *, limit: int = _MAX_LOG) -> str:
    """``text`` without line breaks and control characters: TorchServe parses the worker's output line by line, and a
    line of a client's making could pass for a metric or a process id."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:limit])


def request_headers(context: Any, index: int) -> dict[str, str]:
    """The headers of one request. TorchServe mixes the types of multipart fields in; those are no strings."""
    headers = context.get_all_request_header(index)
    return {k: v for k, v in headers.items() if isinstance(k, str) and isinstance(v, str)}


def request_body(row: Mapping[Any, Any]) -> Any:
    """The body of one request: a buffer, or the object of a JSON body that TorchServe has parsed; ``None`` without
    one. An empty body is a body: presence of the key counts, not truth."""
    for key in ("body", "data"):
        if key in row:
            body = row[key]
            return body.encode() if isinstance(body, str) else body
    return None


def json_answer(context: Any, index: int, body: Any) -> str:
    """Answer with JSON. TorchServe would write NaN, which is no JSON."""
    context.set_response_content_type(index, JSON_TYPE)
    return json.dumps(body, allow_nan=False, separators=(",", ":"))


def error_answer(context: Any, index: int, error: BaseException) -> tuple[str, str]:
    """Answer one request with an error; its neighbours are not affected. Returns (body, code of the error).

    What is no error of ours becomes a plain 500: its text and its stack stay in the server's log.
    """
    if not isinstance(error, IsplitError):
        frames = traceback.extract_tb(error.__traceback__)
        where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        _LOGGER.error("isplit: unexpected %s%s: %s", type(error).__name__, where, one_line(error))
        error = IsplitError("the server failed to answer this request; its log says why")
    status = HTTPStatus(error.status)
    context.set_response_status(status.value, status.phrase, index)
    body = error.to_json()
    try:
        return json_answer(context, index, body), error.code
    except (ValueError, TypeError):
        return json_answer(context, index, {"error": error.message, "code": error.code}), error.code


def tensor_answer(
    context: Any, index: int, body: bytes, json_length: int | None, *, limit: int
) -> bytes:
    """Answer with an encoded OIP v2 body. Raises WireSizeError above ``limit``: TorchServe would end the worker."""
    if len(body) > limit:
        raise WireSizeError(
            f"the answer takes {len(body)} bytes, at most {limit}: ask for fewer items or without scores",
            limit=limit,
        )
    if json_length is None:
        context.set_response_content_type(index, JSON_TYPE)
    else:
        context.set_response_content_type(index, "application/octet-stream")
        context.set_response_header(index, HEADER, str(json_length))
    return body
