"""URLs of stores: what they may be, and how they are shown without passwords."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from ..errors import StoreError

_PASSWORD: Final = re.compile(r"(://[^:/@\s]*):\S*@")


def parse_url(url: str | Path) -> URL:
    """The URL of a store; a bare path is an SQLite file. Raises StoreError."""
    text = str(url)
    shown = without_password(text)
    try:
        parsed = make_url(text) if "://" in text else URL.create("sqlite", database=text)
        backend = parsed.get_backend_name()
    except (SQLAlchemyError, ValueError) as error:
        raise StoreError(
            f"store {shown}: expected a URL such as sqlite:////var/lib/isplit.db", url=shown
        ) from error
    if backend not in ("sqlite", "postgresql"):
        raise StoreError(f"store {shown}: expected sqlite or postgresql, got {backend}", url=shown)
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StoreError(
            f"store {shown}: expected a file, because several processes share it; got none",
            url=shown,
        )
    return parsed


def sqlite_file(url: URL) -> Path | None:
    """The file of an SQLite store; ``None`` for PostgreSQL."""
    if url.get_backend_name() != "sqlite":
        return None
    return Path(str(url.database).removeprefix("file:"))


def without_password(text: str, url: URL | None = None) -> str:
    """``text`` without the passwords in its URLs, and without the password of ``url``."""
    if url is not None and url.password:
        text = text.replace(str(url.password), "***")
    return _PASSWORD.sub(r"\1:***@", text)
