"""Writing a file atomically, and the SHA-256 of a file. Standard library only."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

__all__ = ["file_sha256", "write_atomically"]


def write_atomically(
    path: str | Path,
    content: bytes | Callable[[Path], object],
    *,
    mode: int | None = None,
    overwrite: bool = True,
) -> None:
    """Write a file so that a reader sees the old file or the complete new one, never a part.

    The content goes to a temporary file in the same folder, which is then renamed. If anything
    fails, the temporary file is removed and ``path`` stays as it was.

    Parameters:
        path: the file to write. Its folder must exist.
        content: the bytes; or a function that is called with the path of the temporary file and
            writes to it, for libraries that write files themselves.
        mode: permission bits such as ``0o600``; ``None`` leaves them to the umask.
        overwrite: whether an existing file may be replaced.

    Raises:
        FileExistsError: the file exists and ``overwrite`` is false.
        OSError: the file cannot be written.
        Exception: whatever ``content`` raises.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(temporary, flags, 0o666 if mode is None else mode)
        with os.fdopen(descriptor, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
        if not isinstance(content, bytes):
            content(temporary)
        if mode is not None:
            temporary.chmod(mode)
        if overwrite:
            temporary.replace(target)
        else:
            os.link(temporary, target)  # unlike a rename, fails if the target exists
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits. Raises OSError."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
