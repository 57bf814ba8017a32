"""What the launcher tells the workers through environment variables: the store, the secrets, and
their settings.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from ...device_tokens import SECRET_VARIABLE, RevokedDevices, read_secret, revoked_path
from ...errors import SecretError, ServingError
from ...exits import read_private_key
from ..settings import LABEL_SECRET_VARIABLE, STORE_VARIABLE, check_settings
from ..settings_file import EXIT_KEY, SETTINGS_VARIABLE, SettingsFile, absolute_store_url

_SECRETS: Final = (SECRET_VARIABLE, LABEL_SECRET_VARIABLE)


def worker_environment(overrides: Mapping[str, str]) -> dict[str, str]:
    """The additional environment of the workers.

    Workers run in folders of their own, so relative paths become absolute here, where the user
    stands. This includes paths in this process's environment.

    Parameters:
        overrides: variables that take precedence over this process's environment.
    """
    environment = dict(overrides)
    for variable in (STORE_VARIABLE, SETTINGS_VARIABLE, *_SECRETS):
        value = environment.get(variable) or os.environ.get(variable)
        if value:
            is_url = variable == STORE_VARIABLE
            environment[variable] = absolute_store_url(value) if is_url else _absolute(value)
    return environment


def settings_of(
    environment: Mapping[str, str],
    worker_settings: Mapping[str, Any] | str | Path | None,
    models: Iterable[str],
) -> SettingsFile | None:
    """The settings of the workers, checked as they will check them; ``None`` where none are set.

    Parameters:
        environment: of the workers; its settings file is the base.
        worker_settings: settings, or the path of a settings file, over that.
        models: the names of the models that are served.

    Raises:
        ServingError: a file cannot be read, or a key, value or model is unknown.
    """
    known = tuple(models)
    settings = None
    if path := environment.get(SETTINGS_VARIABLE):
        settings = SettingsFile.read(path)
        check_settings(settings)
    if worker_settings is not None:
        if isinstance(worker_settings, Mapping):
            over = SettingsFile.of(worker_settings, "the settings", Path.cwd())
        else:
            over = SettingsFile.read(worker_settings)
        check_settings(over, known)
        settings = over if settings is None else settings.with_overrides(over)
    return settings


def check_secrets(environment: Mapping[str, str], settings: SettingsFile | None = None) -> None:
    """Read the files of secrets and keys that environment and settings name, as workers will do.

    Raises:
        SecretError: a file is missing, open to others than its owner, or has the wrong size; or the
            list of revoked ids cannot be used.
        ServingError: the library that reads keys is missing.
    """
    files = [(name, Path(environment[name])) for name in _SECRETS if environment.get(name)]
    if settings is not None:
        files += settings.secret_files()
    for name, path in files:
        try:
            _read(name, path)
        except SecretError as error:
            raise SecretError(f"{name}: {error.message}. {_advice(name, path)}") from error
    if secret := environment.get(SECRET_VARIABLE):
        RevokedDevices(revoked_path(secret))


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def _read(name: str, path: Path) -> None:
    if not name.endswith(EXIT_KEY):
        read_secret(path)
        return
    try:
        read_private_key(path)
    except ImportError as error:
        raise ServingError(f"{name} needs pip install 'isplit-plugin[exits]'") from error


def _advice(name: str, path: Path) -> str:
    if not path.exists():
        make = "keys make" if name.endswith(EXIT_KEY) else "device secret --secret-file"
        return f"Make it with: isplit {make} {path}"
    return f"It must be readable by its owner only: chmod 600 {path}"
