"""The base of all errors."""

from __future__ import annotations

from typing import Any, ClassVar


class IsplitError(Exception):
    """Base of all errors of this package.

    A server also answers with it, without details, when it fails for an unexpected reason.

    Attributes:
        message: what was expected and what came.
        details: the same facts for programs, as JSON types.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(self, message: str, /, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details

    def to_json(self) -> dict[str, Any]:
        """The body of an error answer. ``error`` is a string, as the OIP demands."""
        body: dict[str, Any] = {"error": self.message, "code": self.code}
        if self.details:
            body["details"] = self.details
        return body
