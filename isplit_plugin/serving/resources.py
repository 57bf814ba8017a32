"""Where the files that ship with the package lie: TorchServe entry points and configuration.

In a checkout (or an editable install) ``handlers/`` and ``config/`` stand beside the package; in an installed wheel
they are inside it as ``_handlers`` and ``_config``.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import ServingError

_PACKAGE = Path(__file__).resolve().parent.parent


def _resource(folder: str, name: str) -> Path:
    places = (_PACKAGE / f"_{folder}" / name, _PACKAGE.parent / folder / name)
    for path in places:
        if path.is_file():
            return path
    raise ServingError(
        f"{folder}/{name} is missing from this installation; looked in {', '.join(map(str, places))}"
    )


def handler_file(name: str) -> Path:
    """Path of one of the TorchServe entry points, for example ``tail_handler.py``. Raises ServingError."""
    return _resource("handlers", name)


def config_file(name: str) -> Path:
    """Path of one of the shipped configuration files, for example ``config.properties``. Raises ServingError."""
    return _resource("config", name)
