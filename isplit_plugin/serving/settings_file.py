"""The settings file: settings of workers that are chosen where a server is started.

An archive is hashed, and may serve on several machines. So what a machine decides is in a file
beside it, which the server's environment variable ``ISPLIT_SETTINGS`` names. Workers read it when
they start::

    tail:              # every tail worker
      sampling: 0.1
    models:
      resnet50:        # the tail workers of one model; takes precedence over `tail`
        probes: {enabled: true}
    endpoint:
      min_gain: 0.1
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from ..errors import ServingError
from ..files import write_atomically

SETTINGS_VARIABLE: Final = "ISPLIT_SETTINGS"
TAIL: Final = "tail"
ENDPOINT: Final = "endpoint"
MODELS: Final = "models"
EXIT_KEY: Final = "exit_key_file"
PATH_KEYS: Final = ("secret_file", "label_secret_file", EXIT_KEY)
"""Settings that are paths of files. The store is a path or a URL."""
_SECTIONS: Final = (TAIL, MODELS, ENDPOINT)
_MAX_BYTES: Final = 1 << 20
_MAX_DEPTH: Final = 8


class Layer(NamedTuple):
    """Settings from one source.

    Attributes:
        source: where they stand, for messages.
        root: the key in front of the settings' names there, such as ``isplit``.
        section: the settings by key; a section within it is a mapping.
        folder: what its relative paths are relative to; ``None`` refuses them.
    """

    source: str
    root: str
    section: Any
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """The contents of a settings file, with every section that it may have.

    Attributes:
        source: its path, for messages.
        folder: what its relative paths are relative to.
    """

    source: str
    folder: Path
    tail: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    endpoint: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a file in YAML. Raises ServingError."""
        where = Path(path)
        return cls.of(read_yaml(where), str(where), where.absolute().parent)

    @classmethod
    def of(cls, raw: object, source: str, folder: Path) -> Self:
        """Check the sections of parsed settings. Raises ServingError."""
        sections = _mapping(raw, source, "")
        for name in sections:
            if name not in _SECTIONS:
                raise ServingError(
                    f"{source}: {name}: unknown section; known sections: {', '.join(_SECTIONS)}"
                )
        models = _mapping(sections.get(MODELS), source, MODELS)
        return cls(
            source=source,
            folder=folder,
            tail=_mapping(sections.get(TAIL), source, TAIL),
            models={
                str(name): _mapping(value, source, f"{MODELS}.{name}")
                for name, value in models.items()
            },
            endpoint=_mapping(sections.get(ENDPOINT), source, ENDPOINT),
        )

    def with_overrides(self, other: SettingsFile) -> SettingsFile:
        """These settings with those of ``other`` over them. All paths become absolute."""
        mine, others = self.absolute(), other.absolute()
        return SettingsFile(
            source=other.source if not self.source else f"{self.source} and {other.source}",
            folder=other.folder,
            tail=merged(mine.tail, others.tail),
            models={
                name: merged(mine.models.get(name, {}), others.models.get(name, {}))
                for name in {**mine.models, **others.models}
            },
            endpoint=merged(mine.endpoint, others.endpoint),
        )

    def absolute(self) -> SettingsFile:
        """The same with absolute paths."""
        return SettingsFile(
            source=self.source,
            folder=self.folder,
            tail=absolute_paths(self.tail, self.folder),
            models={
                name: absolute_paths(section, self.folder) for name, section in self.models.items()
            },
            endpoint=absolute_paths(self.endpoint, self.folder),
        )

    def secret_files(self) -> Iterator[tuple[str, Path]]:
        """The files of secrets and keys that are named, each behind its setting."""
        settings = self.absolute()
        sections = {TAIL: settings.tail, ENDPOINT: settings.endpoint}
        sections |= {f"{MODELS}.{name}": section for name, section in settings.models.items()}
        for name, section in sections.items():
            for key in PATH_KEYS:
                if isinstance(path := section.get(key), str) and path:
                    yield f"{name}.{key}", Path(path)

    def to_yaml(self) -> dict[str, Any]:
        """The sections that are not empty, as a file has them, with absolute paths."""
        settings = self.absolute()
        sections = {
            TAIL: dict(settings.tail),
            MODELS: {name: dict(section) for name, section in settings.models.items()},
            ENDPOINT: dict(settings.endpoint),
        }
        return {name: section for name, section in sections.items() if section}

    def write(self, path: Path) -> None:
        """Write the file (mode 0600), with absolute paths."""
        import yaml

        text = yaml.safe_dump(self.to_yaml(), sort_keys=False)
        write_atomically(path, text.encode(), mode=0o600)

    def layers(self, kind: str, model: str | None = None) -> tuple[Layer, ...]:
        """The layers of a worker, the stronger one last. ``kind``: ``tail`` or ``endpoint``."""
        if kind == ENDPOINT:
            return (Layer(self.source, ENDPOINT, self.endpoint, self.folder),)
        of_all = Layer(self.source, TAIL, self.tail, self.folder)
        own = self.models.get(model or "", {})
        return (of_all, Layer(self.source, f"{MODELS}.{model}", own, self.folder))


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file. Raises ServingError."""
    import yaml

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ServingError(f"{path}: expected at most {_MAX_BYTES} bytes of settings")
        raw = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ServingError(
            f"{path}: the settings cannot be read ({error.strerror or error})"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ServingError(f"{path}: the settings are not YAML ({reason})") from error
    return _mapping(raw, str(path), "")


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Nested settings from words such as ``tail.probes.enabled=true``.

    A value is JSON (a number, ``true``, ``false``, ``null``) or else text. Raises ServingError.
    """
    settings: dict[str, Any] = {}
    for word in assignments:
        key, equals, text = word.partition("=")
        names = key.split(".")
        if not equals or not all(names) or len(names) < 2 or len(names) > _MAX_DEPTH:
            raise ServingError(
                f"expected SECTION.KEY=VALUE, such as tail.sampling=0.1, got {word[:100]!r}"
            )
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        section = settings
        for name in names[:-1]:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise ServingError(f"{key[:100]}: {name} is set as a value and as a section")
        section[names[-1]] = value
    return settings


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others over them, section by section."""
    result = dict(base)
    for name, value in over.items():
        mine = result.get(name)
        both = isinstance(mine, Mapping) and isinstance(value, Mapping)
        result[name] = merged(mine, value) if both else value  # type: ignore[arg-type]
    return result


def absolute_paths(section: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A section of settings whose paths are relative to ``folder`` no more."""
    result = dict(section)
    for key in PATH_KEYS:
        value = result.get(key)
        if isinstance(value, str) and value:
            result[key] = str((folder / value).absolute())
    store = result.get("store")
    if isinstance(store, str) and store:
        result["store"] = absolute_store_url(store, folder)
    return result


def absolute_store_url(url: str, folder: str | Path = "") -> str:
    """The URL with the absolute path of its SQLite file; another database's URL as it is.

    ``folder``: what a relative path is relative to, by default the current folder.
    """
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
    absolute = Path(folder, path.removeprefix("file:")).absolute()
    return parsed.set(database=f"{prefix}{absolute}").render_as_string(hide_password=False)


def _mapping(value: object, source: str, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        at = f"{source}: {where}" if where else source
        raise ServingError(f"{at}: expected a section with keys, got {value!r:.100}")
    return {str(name): item for name, item in value.items()}
