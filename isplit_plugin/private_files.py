"""Reading a small file that is to be secret. Standard library only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import SecretError

__all__ = ["read_private"]


def read_private(path: str | Path, name: str, max_bytes: int, *, public: bool = False) -> bytes:
    """The content of a small file that only its owner may read.

    Parameters:
        name: what the file is, for errors.
        public: others may read it, too.

    Raises:
        SecretError: the file cannot be read, is larger than ``max_bytes``, or others may read it.
            What is no regular file reads as empty.
    """
    try:
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(max_bytes + 1) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        reason = error.strerror or error
        raise SecretError(f"{name} {path}: cannot be read ({reason})") from error
    if not public and os.name == "posix" and status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise SecretError(f"{name} {path}: expected mode 0600, got {mode:04o}")
    if len(data) > max_bytes:
        raise SecretError(f"{name} {path}: expected at most {max_bytes} bytes")
    return data
