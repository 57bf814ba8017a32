"""What the endpoint needs of TorchServe's context, for one request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Context:
    """A request's headers, the archive's configuration, and the status that is answered.

    ``status`` is 200 until the endpoint sets another one.
    """

    def __init__(
        self, headers: Mapping[str, str] | None = None, *, config: Mapping[str, Any] | None = None
    ) -> None:
        self.model_yaml_config = dict(config or {})
        self.headers = dict(headers or {})
        self.status = 200

    def get_all_request_header(self, index: int) -> dict[str, str]:
        return self.headers

    def set_response_content_type(self, index: int, value: str) -> None:
        assert value == "application/json"

    def set_response_status(self, code: int, phrase: str, index: int) -> None:
        self.status = code
