"""Settings of the workers.

They come from the section ``isplit`` of the archive's ``model-config.yaml``, from the settings file
that ``ISPLIT_SETTINGS`` names, and from three more environment variables of the server:
``ISPLIT_STORE``, ``ISPLIT_SECRET_FILE`` and ``ISPLIT_LABEL_SECRET_FILE``. The later ones take
precedence. Each source is checked alone, so that a message names where the value stands.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..device_tokens import SECRET_VARIABLE
from ..errors import ServingError
from .settings_file import (
    ENDPOINT,
    PATH_KEYS,
    SETTINGS_VARIABLE,
    TAIL,
    Layer,
    SettingsFile,
    absolute_paths,
    absolute_store_url,
    merged,
)

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
_TORCHSERVE_NUMBERS: Final = (
    "minWorkers",
    "maxWorkers",
    "batchSize",
    "maxBatchDelay",
    "responseTimeout",
    "startupTimeout",
    "maxRetryTimeoutInSec",
)
_TORCHSERVE_OTHER: Final = ("deviceType", "deviceIds")
_KINDS: Final = {bool: "true or false", int: "a whole number", float: "a number"}


def default_store_url() -> str:
    """``isplit-store.sqlite3`` in the folder ``$XDG_STATE_HOME/isplit``.

    ``XDG_STATE_HOME`` is ``~/.local/state`` if it is not set.
    """
    return f"sqlite:///{_default_store_path()}"


def store_url() -> str:
    """The store of a program without a configuration file: ``ISPLIT_STORE``, or the default."""
    return os.environ.get(STORE_VARIABLE) or default_store_url()


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


class ExitSettings(BaseModel):
    """Settings of exits in a tail worker.

    Attributes:
        enabled: whether the sums of exits are taken and their answers counted.
        sampling: share of the requests that enter the sums.
        flush_s: seconds between two writes of answers; the sums are written with every sixth.
    """

    model_config = _STRICT

    enabled: bool = False
    sampling: Annotated[float, Field(ge=0, le=1)] = 0.25
    flush_s: Annotated[float, Field(ge=0.1, le=3600)] = 5.0


class RefinementSettings(BaseModel):
    """Settings of refining cuts in a tail worker.

    Attributes:
        audit: share of the sure answers that are asked for again, to count how often they are
            wrong.
    """

    model_config = _STRICT

    audit: Annotated[float, Field(ge=0, le=1)] = 0.01


class ExitReleaseSettings(BaseModel):
    """Settings of exits in the endpoint, which makes, proves and signs them.

    Attributes:
        min_photos: requests of a class before an exit may name it.
        min_devices: devices behind a class before an exit may name it, where devices are known.
        tolerance: share of an exit's answers that may differ from the full network's.
        promise: whose answers keep the tolerance: those of all released classes ``together``, or of
            ``each`` class by itself, which takes several times the traffic.
        alpha: the risk that answers are ever released that are above it.
        days: how long a version lives.
        contact_s: after so many seconds without contact a device stops exiting.
        check_s: seconds between two looks at the counts.
    """

    model_config = _STRICT

    min_photos: Annotated[int, Field(ge=2, le=1_000_000)] = 100
    min_devices: Annotated[int, Field(ge=1, le=60)] = 20
    tolerance: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    promise: Literal["together", "each"] = "together"
    alpha: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    days: Annotated[float, Field(gt=0, le=365)] = 14.0
    contact_s: Annotated[float, Field(ge=1, le=31_536_000)] = 86_400.0
    check_s: Annotated[float, Field(ge=0.1, le=86_400)] = 10.0


class WorkerSettings(BaseModel):
    """Settings that a tail and the endpoint have in common.

    Attributes:
        store: URL of the store.
        secret_file: file with the operator's secret. With it, devices are known by their tokens.
        label_secret_file: file with the secret for labels. With it, requests can be labelled.
    """

    model_config = _STRICT

    file: ClassVar[str]
    """The configuration file that ships, for packaging."""
    source: ClassVar[str]
    """The file that a packaged model has, for error messages."""
    kind: ClassVar[str]
    """The section of a settings file."""

    store: str = Field(default_factory=default_store_url)
    secret_file: str | None = None
    label_secret_file: str | None = None

    @classmethod
    def of_archive(cls, config: Mapping[str, Any] | None, source: str) -> Self:
        """The settings of an archive alone. ``source``: where they stand, for messages.

        Raises as :meth:`from_config`.
        """
        return cls.model_validate(cls._checked(_archive_layer(config, source)))

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None, *, model: str | None = None) -> Self:
        """Settings from the archive's configuration, the settings file and the environment.

        Parameters:
            config: the parsed configuration file of the archive.
            model: the model's name, for its own section of the settings file.

        Raises:
            ServingError: a key is unknown, a value has the wrong type or is out of bounds, or a
                path is relative. The message names every such key, what was expected and what came,
                and the file or variable.
        """
        layers = [_archive_layer(config, cls.source)]
        if path := os.environ.get(SETTINGS_VARIABLE):
            if not Path(path).is_absolute():
                raise ServingError(
                    f"the variable {SETTINGS_VARIABLE}: expected an absolute path, because workers "
                    f"run in folders of their own, got {path!r:.100}"
                )
            layers += SettingsFile.read(path).layers(cls.kind, model)
        layers += _environment_layers()
        values: dict[str, Any] = {}
        for layer in layers:
            values = merged(values, cls._checked(layer))
        return cls.model_validate(values)

    @classmethod
    def check(cls, layers: Iterable[Layer]) -> None:
        """Raise ServingError for the first layer that a worker would refuse."""
        for layer in layers:
            cls._checked(layer)

    @classmethod
    def _checked(cls, layer: Layer) -> dict[str, Any]:
        """The values of one layer, with absolute paths. An empty value means the default."""
        source, root, section, folder = layer
        if not isinstance(section, Mapping):
            raise ServingError(
                f"{source}: {root}: expected a section with keys, got {section!r:.100}"
            )
        values = {
            key: value
            for key, value in section.items()
            if key not in (*_VARIABLES, *PATH_KEYS) or value not in (None, "")
        }
        try:
            cls.model_validate(values)
        except ValidationError as error:
            problems = "; ".join(_problem(cls, root, details) for details in error.errors())
            raise ServingError(f"{source}: {problems}") from None
        absolute = absolute_paths(values, folder or Path())
        if folder is None:
            for key in {*_VARIABLES, *PATH_KEYS} & values.keys():
                if _is_relative(key, values[key]):
                    raise ServingError(
                        f"{source}: {f'{root}.{key}' if root else key}: expected an absolute path, "
                        f"because workers run in folders of their own, got {values[key]!r:.100}"
                    )
            return values
        return absolute


class TailSettings(WorkerSettings):
    """Settings of a tail worker.

    Attributes:
        statistics: whether anything is recorded.
        sampling: share of the requests whose importance is computed.
        cpu_budget: share of one CPU core that computing importance may take.
        threads: threads of torch. Those of numpy are one.
        max_response_size: bytes of the largest answer. TorchServe has a limit of the same name and
            ends a worker that exceeds it, so this one must not be larger.
        max_batch: items in one request.
        probes: see :class:`ProbeSettings`.
        exits: see :class:`ExitSettings`.
        refinement: see :class:`RefinementSettings`.
    """

    file: ClassVar[str] = "model-config.yaml"
    source: ClassVar[str] = "model-config.yaml in the model's archive"
    kind: ClassVar[str] = TAIL

    statistics: bool = True
    sampling: Annotated[float, Field(ge=0, le=1)] = 0.05
    cpu_budget: Annotated[float, Field(ge=0, le=1)] = 0.01
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    max_response_size: Annotated[int, Field(ge=65_536, le=2**31 - 1)] = 33_554_432
    max_batch: Annotated[int, Field(ge=1, le=65_536)] = 64
    probes: ProbeSettings = ProbeSettings()
    exits: ExitSettings = ExitSettings()
    refinement: RefinementSettings = RefinementSettings()


class EndpointSettings(WorkerSettings):
    """Settings of the endpoint.

    Attributes:
        min_gain: share by which a rival must be faster than the standing pick.
        dwell_s: dwell time, in seconds of traffic.
        probes: see :class:`ProbeReportSettings`.
        exit_key_file: file with the key that signs exits. Without it none is made.
        exits: see :class:`ExitReleaseSettings`.
    """

    file: ClassVar[str] = "endpoint-config.yaml"
    source: ClassVar[str] = "model-config.yaml in isplit.mar"
    kind: ClassVar[str] = ENDPOINT

    min_gain: Annotated[float, Field(ge=0, le=10)] = 0.05
    dwell_s: Annotated[float, Field(ge=0, le=1_000_000_000)] = 900.0
    probes: ProbeReportSettings = ProbeReportSettings()
    exit_key_file: str | None = None
    exits: ExitReleaseSettings = ExitReleaseSettings()


def _default_store_path() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state, "isplit", "isplit-store.sqlite3")


def check_torchserve_keys(config: Mapping[str, Any], source: str) -> None:
    """Check the keys of an archive's configuration that TorchServe itself reads.

    Raises:
        ServingError: a key is unknown, or not a whole number where one is needed.
    """
    for key, value in config.items():
        if key == "isplit" or key in _TORCHSERVE_OTHER:
            continue
        if key not in _TORCHSERVE_NUMBERS:
            known = ", ".join(sorted((*_TORCHSERVE_NUMBERS, *_TORCHSERVE_OTHER, "isplit")))
            raise ServingError(f"{source}: {key}: unknown key; known keys: {known}")
        if type(value) is not int or not 0 < value < 2**31:
            raise ServingError(
                f"{source}: {key}: expected a whole number from 1, got {value!r:.100}"
            )


def check_settings(settings: SettingsFile, models: Iterable[str] | None = None) -> None:
    """Check a settings file as workers will.

    ``models``: the models that are served, ``None`` where they are not known.

    Raises:
        ServingError: a key, a value or the name of a model that cannot be used.
    """
    known = None if models is None else sorted(set(models))
    for name in settings.models:
        if known is not None and name not in known:
            raise ServingError(
                f"{settings.source}: models.{name}: unknown model; known: {', '.join(known)}"
            )
    TailSettings.check(settings.layers(TAIL))
    for name in settings.models:
        TailSettings.check(settings.layers(TAIL, name))
    EndpointSettings.check(settings.layers(ENDPOINT))


def _archive_layer(config: Mapping[str, Any] | None, source: str) -> Layer:
    section = (config or {}).get("isplit")
    return Layer(source, "isplit", {} if section is None else section)


def _environment_layers() -> list[Layer]:
    """One layer for each variable that is set, so that a message names the variable."""
    return [
        Layer(f"the variable {variable}", "", {key: value})
        for key, variable in _VARIABLES.items()
        if (value := os.environ.get(variable))
    ]


def _is_relative(key: str, value: str) -> bool:
    if key in PATH_KEYS:
        return not Path(value).is_absolute()
    return absolute_store_url(value, "/a") != absolute_store_url(value, "/b")


def _problem(settings: type[BaseModel], root: str, error: ErrorDetails) -> str:
    """One error of pydantic in the words of this package."""
    *sections, key = error["loc"]
    for name in sections:
        settings = settings.model_fields[str(name)].annotation  # type: ignore[assignment]
    where = ".".join(map(str, (*((root,) if root else ()), *error["loc"])))
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
        for name in ("ge", "gt", "le")
        if hasattr(item, name)
    }
    words = _KINDS.get(kind, "text")
    if not bounds:
        return words
    low = f"from {bounds['ge']}" if "ge" in bounds else f"above {bounds['gt']}"
    return f"{words} {low} to {bounds['le']}"
