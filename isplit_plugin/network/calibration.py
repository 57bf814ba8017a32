"""The calibration set: which photos, and the class of each."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from ..errors import DataError
from .wording import listing

__all__ = ["LabelledPhoto", "calibration_folder"]

LabelledPhoto = tuple[Path, int | None]
"""A photo's file and its class id; ``None`` if the class is unknown."""

_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)


def calibration_folder(
    path: str | Path, classes: Sequence[str], *, limit_per_class: int | None = None
) -> list[LabelledPhoto]:
    """The photos of a calibration set, sorted by name. The photos are not opened.

    Parameters:
        path: a folder with one subfolder for each class; a folder of photos of unknown class; or a
            CSV file with lines ``file,label``, relative to its folder, without a label for a photo
            of unknown class.
        classes: the network's class names. A subfolder or label names a class by its name (case,
            ``_`` and ``-`` do not matter) or by its id; a name takes precedence over an id.
        limit_per_class: take the first photos of each class only.

    Raises DataError if there are no photos, a class is unknown, or several classes share a name.
    """
    root = Path(path)
    class_ids = _ClassIds(classes)
    if root.is_dir():
        photos = _from_folder(root, class_ids)
    elif root.is_file():
        photos = _from_csv(root, class_ids)
    else:
        raise DataError(f"{root}: expected a folder of photos or a CSV file, got no such path")
    if class_ids.unknown:
        unknown = sorted(class_ids.unknown)
        raise DataError(
            f"{root}: {len(unknown)} names are not classes of the network: {listing(unknown)}; "
            f"it has {len(classes)} classes: {listing(classes)}",
            unknown=unknown,
        )
    if not photos:
        raise DataError(f"{root}: expected photos ({', '.join(sorted(_SUFFIXES))}), got none")
    return photos if limit_per_class is None else _first_of_each_class(photos, limit_per_class)


class _ClassIds:
    """Looks class ids up by name or id, and collects the names that are neither."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._by_name: dict[str, list[int]] = defaultdict(list)
        for class_id, name in enumerate(classes):
            self._by_name[_normalised(name)].append(class_id)
        self._count = len(classes)
        self.unknown: set[str] = set()

    def of(self, name: str) -> int | None:
        ids = self._by_name.get(_normalised(name), [])
        if len(ids) > 1:
            raise DataError(
                f"several classes are named {name!r}: use one of their ids, "
                + ", ".join(map(str, ids))
            )
        if ids:
            return ids[0]
        if name.isascii() and name.isdigit() and len(name) < 10 and int(name) < self._count:
            return int(name)
        self.unknown.add(name)
        return None


def _from_folder(root: Path, class_ids: _ClassIds) -> list[LabelledPhoto]:
    photos: list[LabelledPhoto] = [(file, None) for file in _image_files(root.iterdir())]
    folders = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    for folder in sorted(folders):
        files = _image_files(folder.rglob("*"))
        if files:
            class_id = class_ids.of(folder.name)
            photos += [(file, class_id) for file in files]
    return photos


def _from_csv(path: Path, class_ids: _ClassIds) -> list[LabelledPhoto]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [
                [cell.strip() for cell in row]
                for row in csv.reader(file, skipinitialspace=True)
                if row and row[0].strip()
            ]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file of file,label ({error})") from error
    if rows and rows[0][0].lower() in ("file", "filename", "path", "image"):
        rows = rows[1:]
    photos: list[LabelledPhoto] = []
    for number, row in enumerate(rows, start=1):
        if len(row) > 2:
            raise DataError(f"{path}: entry {number}: expected file,label, got {len(row)} cells")
        label = row[1] if len(row) == 2 else ""
        photos.append((path.parent / row[0], class_ids.of(label) if label else None))
    missing = [str(file) for file, _ in photos if not file.is_file()]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(photos)} files are missing: {listing(missing)}"
        )
    return photos


def _image_files(paths: Iterable[Path]) -> list[Path]:
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in _SUFFIXES and path.is_file() and path.name[0] != "."
    )


def _first_of_each_class(photos: Iterable[LabelledPhoto], limit: int) -> list[LabelledPhoto]:
    counts: Counter[int | None] = Counter()
    first = []
    for file, class_id in photos:
        counts[class_id] += 1
        if counts[class_id] <= limit:
            first.append((file, class_id))
    return first


def _normalised(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())
