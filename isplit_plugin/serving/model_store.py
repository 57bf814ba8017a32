"""The files of a model store: what they are called, and which model and version each holds.

``letters.mar`` and ``letters.head.zip`` are those of version 1.0, the usual one. Another version
has its number in the names of its files, as in ``letters-2.0.mar``, and overwrites no other's.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ..errors import BundleError, ServingError
from ..schema import version_key
from .files import MANIFEST

USUAL_VERSION: Final = "1.0"
"""The version of a model whose operator names none. It is not part of file names."""
_ARCHIVE_MANIFEST: Final = "MAR-INF/MANIFEST.json"
_MAX_MANIFEST: Final = 16 << 20


def archive_name(model: str, version: str) -> str:
    """The file name of a model archive."""
    return f"{_stem(model, version)}.mar"


def head_bundle_name(model: str, version: str) -> str:
    """The file name of a head bundle."""
    return f"{_stem(model, version)}.head.zip"


def archive_identity(path: str | Path) -> tuple[str, str]:
    """Model name and version in a ``.mar`` archive. Raises BundleError if it is not an archive."""
    try:
        model = _read_json(path, _ARCHIVE_MANIFEST)["model"]
        return str(model["modelName"]), str(model["modelVersion"])
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise BundleError(f"{path} is not a model archive: {error}") from error


def check_unused(folder: Path, model: str, version: str) -> None:
    """Raise BundleError if the files of this version would overwrite those of another one.

    Files that are not what their names say are overwritten.
    """
    archive = folder / archive_name(model, version)
    bundle = folder / head_bundle_name(model, version)
    for path, identity in ((archive, _archive_or_none(archive)), (bundle, _bundle_or_none(bundle))):
        if identity not in (None, (model, version)):
            raise BundleError(
                f"{path}: expected the file of {model} {version}, found that of "
                f"{' '.join(identity)}: choose another folder, name or version"
            )


def packaged_network(folder: Path, model: str, version: str) -> str | None:
    """The network hash of the head bundle of a version; ``None`` where there is none to read."""
    path = folder / head_bundle_name(model, version)
    try:
        return str(_read_json(path, MANIFEST)["network_hash"])
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError):
        return None


def find_archives(folder: Path, words: Sequence[str] | None = None) -> list[Path]:
    """Archives of a model store, the lowest version of a model before its others.

    TorchServe makes the version that it loads first the default one.

    Parameters:
        words: what to find, in this order: ``NAME`` for all versions of a model, ``NAME/VERSION``
            for one, or the name of a file; by default everything.

    Raises:
        ServingError: there is no such folder, model, version or file.
        BundleError: a file is not an archive.
    """
    if not folder.is_dir():
        raise ServingError(f"model store {folder} is not a folder")
    paths = sorted(folder.glob("*.mar"))
    if words is None:
        return _in_order({path: archive_identity(path) for path in paths})
    identities = {path: _archive_or_none(path) for path in paths}
    archives = {path: pair for path, pair in identities.items() if pair is not None}
    found: list[Path] = []
    for word in words:
        file = folder / Path(word).name
        if file.suffix == ".mar" and file.is_file():
            found.append(file)
            continue
        model, _, version = word.partition("/")
        matching = {
            path: pair
            for path, pair in archives.items()
            if pair[0] == model and version in ("", pair[1])
        }
        file = folder / f"{word}.mar"
        if not matching and file.is_file():
            matching = {file: archive_identity(file)}
        if not matching:
            known = ", ".join("/".join(archives[path]) for path in _in_order(archives)) or "none"
            raise ServingError(f"not in the model store {folder}: {word[:100]}; known: {known}")
        found += _in_order(matching)
    return list(dict.fromkeys(found))


def _stem(model: str, version: str) -> str:
    return model if version == USUAL_VERSION else f"{model}-{version}"


def _in_order(archives: dict[Path, tuple[str, str]]) -> list[Path]:
    return sorted(archives, key=lambda path: (archives[path][0], version_key(archives[path][1])))


def _archive_or_none(path: Path) -> tuple[str, str] | None:
    try:
        return archive_identity(path)
    except BundleError:
        return None


def _bundle_or_none(path: Path) -> tuple[str, str] | None:
    try:
        manifest = _read_json(path, MANIFEST)
        return str(manifest["model"]), str(manifest["version"])
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError):
        return None


def _read_json(path: str | Path, name: str) -> Any:
    with zipfile.ZipFile(path) as file:
        info = file.getinfo(name)
        if info.file_size > _MAX_MANIFEST:
            raise ValueError(f"its manifest has more than {_MAX_MANIFEST} bytes")
        return json.loads(file.read(info))
