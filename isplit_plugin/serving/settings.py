"""What an operator sets for our handlers: the section ``isplit`` of ``model-config.yaml``, ``ISPLIT_STORE``,
``ISPLIT_SECRET_FILE`` and ``ISPLIT_LABEL_SECRET_FILE``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from ..device_tokens import SECRET_VARIABLE
from ..errors import ServingError

STORE_VARIABLE = "ISPLIT_STORE"
LABELS_VARIABLE = "ISPLIT_LABEL_SECRET_FILE"


def default_store_url() -> str:
    """``isplit-store.sqlite3`` in the user's state folder (``$XDG_STATE_HOME/isplit`` or ``~/.local/state/isplit``)."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return f"sqlite:///{Path(state, 'isplit', 'isplit-store.sqlite3')}"


def store_url(section: Mapping[str, Any] | None = None) -> str:
    """Where statistics live: ``ISPLIT_STORE``, else ``store`` of ``section``, else :func:`default_store_url`."""
    configured = (section or {}).get("store")
    return os.environ.get(STORE_VARIABLE) or (
        str(configured) if configured else default_store_url()
    )


def secret_file(section: Mapping[str, Any] | None = None) -> str | None:
    """The operator's secret that devices are known by: ``ISPLIT_SECRET_FILE``, else ``secret_file`` of ``section``."""
    configured = (section or {}).get("secret_file")
    return os.environ.get(SECRET_VARIABLE) or (str(configured) if configured else None)


def label_secret_file(section: Mapping[str, Any] | None = None) -> str | None:
    """The back office's secret for labels: ``ISPLIT_LABEL_SECRET_FILE``, else ``label_secret_file`` of ``section``."""
    configured = (section or {}).get("label_secret_file")
    return os.environ.get(LABELS_VARIABLE) or (str(configured) if configured else None)


@dataclass(frozen=True, slots=True)
class TailSettings:
    """Settings of a tail. ``statistics``: whether anything is recorded at all. ``sampling``: share of requests whose
    importance is computed; ``cpu_budget``: share of one core it may take; ``threads`` of torch per worker;
    ``max_response_size`` in bytes, TorchServe's own limit; ``max_batch``: items in one request. ``secret_file``: the
    operator's secret, with which devices are known by their tokens. ``label_secret_file``: that of labels; with it
    requests are kept for a day, so that they can be labelled. ``probes``: whether split-gradient probes are answered;
    ``probes_per_hour``, of one device; ``probe_cpu_budget``, as ``cpu_budget``, for them alone; ``probe_rate``: the
    largest share of its requests that a device is advised to follow with a probe."""

    store: str
    statistics: bool = True
    sampling: float = 0.05
    cpu_budget: float = 0.01
    threads: int = 1
    max_response_size: int = 33_554_432
    max_batch: int = 64
    secret_file: str | None = None
    label_secret_file: str | None = None
    probes: bool = False
    probes_per_hour: int = 60
    probe_cpu_budget: float = 0.01
    probe_rate: float = 0.05

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> Self:
        """Read the parsed ``model-config.yaml``. Raises ServingError naming the key that cannot be used."""
        section = (config or {}).get("isplit") or {}
        if not isinstance(section, Mapping):
            raise ServingError(
                f"model-config.yaml: `isplit` must be a mapping, got {type(section).__name__}"
            )
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(map(str, section)) - known)
        if unknown:
            raise ServingError(
                f"model-config.yaml: unknown keys in `isplit`: {', '.join(unknown)}; known: {known}"
            )
        values: dict[str, Any] = {}
        for key, low, high in (
            ("sampling", 0.0, 1.0),
            ("cpu_budget", 0.0, 1.0),
            ("probe_cpu_budget", 0.0, 1.0),
            ("probe_rate", 0.0, 1.0),
        ):
            values[key] = _number(section, key, low, high, getattr(cls(""), key))
        for key, least, most in (
            ("threads", 1, 1024),
            ("max_response_size", 65_536, 2**31 - 1),
            ("max_batch", 1, 65_536),
            ("probes_per_hour", 0, 1_000_000),
        ):
            values[key] = int(_number(section, key, least, most, getattr(cls(""), key)))
        for key in ("statistics", "probes"):
            values[key] = section.get(key, getattr(cls(""), key))
            if not isinstance(values[key], bool):
                raise ServingError(
                    f"model-config.yaml: isplit.{key} must be true or false, got {values[key]!r}"
                )
        return cls(
            store=store_url(section),
            secret_file=secret_file(section),
            label_secret_file=label_secret_file(section),
            **values,
        )


def _number(section: Mapping[str, Any], key: str, low: float, high: float, default: float) -> float:
    value = section.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ServingError(
            f"model-config.yaml: isplit.{key} must be a number from {low} to {high}, got {value!r}"
        )
    return float(value)
