"""Settings of the workers: the section ``isplit`` of their configuration file.

Three environment variables of the server take precedence over the file: ``ISPLIT_STORE``,
``ISPLIT_SECRET_FILE`` and ``ISPLIT_LABEL_SECRET_FILE``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..device_tokens import SECRET_VARIABLE
from ..errors import ServingError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

STORE_VARIABLE: Final = "ISPLIT_STORE"
LABEL_SECRET_VARIABLE: Final = "ISPLIT_LABEL_SECRET_FILE"  # noqa: S105  a variable's name

_STRICT: Final = ConfigDict(extra="forbid", strict=True, frozen=True)
_VARIABLES: Final = {
    "store": STORE_VARIABLE,
    "secret_file": SECRET_VARIABLE,
    "label_secret_file": LABEL_SECRET_VARIABLE,
}
_KINDS: Final = {bool: "true or false", int: "a whole number", float: "a number"}


def default_store_url() -> str:
    """``isplit-store.sqlite3`` in the folder ``$XDG_STATE_HOME/isplit``.

    ``XDG_STATE_HOME`` is ``~/.local/state`` if it is not set.
    """
    return f"sqlite:///{_default_store_path()}"


def store_url() -> str:
    """The store of a program without a configuration file: ``ISPLIT_STORE``, or the default."""
    return os.environ.get(STORE_VARIABLE) or default_store_url()


def absolute_store_url(url: str) -> str:
    """The URL with the absolute path of its SQLite file; another database's URL as it is."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url if "://" in url else f"sqlite:///{url}")
    except ArgumentError:
        return url  # opening the store reports it
    path = parsed.database
    if parsed.get_backend_name() != "sqlite" or not path or path == ":memory:":
        return url
    prefix = "file:" if path.startswith("file:") else ""
    absolute = Path(path.removeprefix("file:")).absolute()
    return parsed.set(database=f"{prefix}{absolute}").render_as_string(hide_password=False)


def make_store_folder(url: str) -> None:
    """Make the folder of the default store (mode 0700). The folder of another store must exist."""
    if url == default_store_url():
        # If the folder cannot be made, opening the store reports it.
        with contextlib.suppress(OSError):
            _default_store_path().parent.mkdir(mode=0o700, parents=True, exist_ok=True)


class ProbeReportSettings(BaseModel):
    """Settings of probes in the endpoint.

    Attributes:
        per_hour: curves that one device may add within an hour, over all workers.
    """

    model_config = _STRICT

    per_hour: Annotated[int, Field(ge=0, le=1_000_000)] = 60


class ProbeSettings(BaseModel):
    """Settings of probes in a tail worker.

    Attributes:
        enabled: whether probes are answered.
        per_hour: probes of one device within an hour; all devices without a token count as one.
        cpu_budget: share of one CPU core that probes may take.
        rate: the largest share of its requests that a device is advised to follow with a probe.
    """

    model_config = _STRICT

    enabled: bool = False
    per_hour: Annotated[int, Field(ge=0, le=1_000_000)] = 60
    cpu_budget: Annotated[float, Field(ge=0, le=1)] = 0.01
    rate: Annotated[float, Field(ge=0, le=1)] = 0.05


class WorkerSettings(BaseModel):
    """Settings that a tail and the endpoint have in common.

    Attributes:
        store: URL of the store.
        secret_file: file with the operator's secret. With it, devices are known by their tokens.
        label_secret_file: file with the secret for labels. With it, requests can be labelled.
    """

    model_config = _STRICT

    file: ClassVar[str]
    """The configuration file, for error messages."""

    store: str = Field(default_factory=default_store_url)
    secret_file: str | None = None
    label_secret_file: str | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> Self:
        """Settings from a parsed configuration file and the environment.

        Raises:
            ServingError: a key is unknown, or a value has the wrong type or is out of bounds. The
                message names every such key, what was expected and what came.
        """
        section = (config or {}).get("isplit")
        if section is None:
            section = {}
        if not isinstance(section, Mapping):
            raise ServingError(
                f"{cls.file}: isplit: expected a section with keys, got {section!r:.100}"
            )
        try:
            return cls.model_validate(_with_environment(section))
        except ValidationError as error:
            problems = "; ".join(_problem(cls, details) for details in error.errors())
            raise ServingError(f"{cls.file}: {problems}") from None


class TailSettings(WorkerSettings):
    """Settings of a tail worker.

    Attributes:
        statistics: whether anything is recorded.
        sampling: share of the requests whose importance is computed.
        cpu_budget: share of one CPU core that computing importance may take.
        threads: threads of torch.
        max_response_size: bytes of the largest answer. TorchServe has a limit of the same name and
            ends a worker that exceeds it, so this one must not be larger.
        max_batch: items in one request.
        probes: see :class:`ProbeSettings`.
    """

    file: ClassVar[str] = "model-config.yaml"

    statistics: bool = True
    sampling: Annotated[float, Field(ge=0, le=1)] = 0.05
    cpu_budget: Annotated[float, Field(ge=0, le=1)] = 0.01
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    max_response_size: Annotated[int, Field(ge=65_536, le=2**31 - 1)] = 33_554_432
    max_batch: Annotated[int, Field(ge=1, le=65_536)] = 64
    probes: ProbeSettings = ProbeSettings()


class EndpointSettings(WorkerSettings):
    """Settings of the endpoint.

    Attributes:
        min_gain: share by which a rival must be faster than the standing pick.
        dwell_s: dwell time, in seconds of traffic.
        probes: see :class:`ProbeReportSettings`.
    """

    file: ClassVar[str] = "endpoint-config.yaml"

    min_gain: Annotated[float, Field(ge=0, le=10)] = 0.05
    dwell_s: Annotated[float, Field(ge=0, le=1_000_000_000)] = 900.0
    probes: ProbeReportSettings = ProbeReportSettings()


def _default_store_path() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state, "isplit", "isplit-store.sqlite3")


def _with_environment(section: Mapping[str, Any]) -> dict[str, Any]:
    """The section with the environment's values. An empty value means the default."""
    values = dict(section)
    for key, variable in _VARIABLES.items():
        value = os.environ.get(variable) or values.pop(key, None)
        if value not in (None, ""):
            values[key] = value
    return values


def _problem(settings: type[BaseModel], error: ErrorDetails) -> str:
    """One error of pydantic in the words of this package."""
    *sections, key = error["loc"]
    for name in sections:
        settings = settings.model_fields[str(name)].annotation  # type: ignore[assignment]
    where = ".".join(map(str, ("isplit", *error["loc"])))
    field = settings.model_fields.get(str(key))
    if field is None:
        return f"{where}: unknown key; known keys: {', '.join(sorted(settings.model_fields))}"
    return f"{where}: expected {_expected(field)}, got {error['input']!r:.100}"


def _expected(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"a section with the keys {', '.join(sorted(kind.model_fields))}"
    bounds = {
        name: getattr(item, name)
        for item in field.metadata
        for name in ("ge", "le")
        if hasattr(item, name)
    }
    words = _KINDS.get(kind, "text")
    return f"{words} from {bounds['ge']} to {bounds['le']}" if bounds else words
