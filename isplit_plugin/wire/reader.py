"""A cursor over bytes from the network."""

from __future__ import annotations

from struct import Struct
from typing import Any

from ..errors import WireError

Buffer = bytes | bytearray | memoryview
"""Bytes in memory."""


class Reader:
    """Reads bytes from front to back.

    Parameters:
        data: The bytes. What is read are views of them: no copies.
        subject: What the bytes are, for error messages.
    """

    def __init__(self, data: Buffer, subject: str) -> None:
        self._data = memoryview(data)
        self._position = 0
        self.subject = subject

    @property
    def remaining(self) -> int:
        """The number of bytes that were not read yet."""
        return len(self._data) - self._position

    def take(self, size: int) -> memoryview:
        """Read ``size`` bytes. Raises WireError where fewer are left."""
        if size > self.remaining:
            raise WireError(f"{self.subject}: expected {size} more bytes, {self.remaining} left")
        start = self._position
        self._position += size
        return self._data[start : self._position]

    def peek(self, size: int) -> memoryview:
        """The next ``size`` bytes, which stay unread. Raises WireError where fewer are left."""
        data = self.take(size)
        self._position -= size
        return data

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        """Read the values of a struct. Raises WireError where too few bytes are left."""
        return layout.unpack(self.take(layout.size))

    def finish(self) -> None:
        """Raise WireError where bytes are left."""
        if self.remaining:
            raise WireError(f"{self.subject}: {self.remaining} bytes after the end")
