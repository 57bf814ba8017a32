"""Files that ship with the package: TorchServe's entry points and configuration.

In a checkout (or an editable install) the folders ``handlers/`` and ``config/`` are next to the
package; in an installed wheel they are inside it, as ``_handlers`` and ``_config``.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import ServingError

_PACKAGE = Path(__file__).resolve().parent.parent


def handler_file(name: str) -> Path:
    """The path of an entry point, such as ``tail_handler.py``. Raises ServingError."""
    return _resource("handlers", name)


def config_file(name: str) -> Path:
    """The path of a configuration file, such as ``config.properties``. Raises ServingError."""
    return _resource("config", name)


def _resource(folder: str, name: str) -> Path:
    paths = (_PACKAGE / f"_{folder}" / name, _PACKAGE.parent / folder / name)
    for path in paths:
        if path.is_file():
            return path
    raise ServingError(
        f"{folder}/{name} is missing from this installation: expected it at "
        f"{' or '.join(map(str, paths))}"
    )
