"""Calibration photos: which files, and which class each of them shows."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from ..errors import DataError

__all__ = ["IMAGE_SUFFIXES", "calibration_folder"]

IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
_SHOWN: Final = 8


def calibration_folder(
    path: str | Path, classes: Sequence[str], *, limit_per_class: int | None = None
) -> list[tuple[Path, int | None]]:
    """The photos under ``path`` with their class ids, sorted by name; at most ``limit_per_class`` of each class.

    ``path`` is a folder with one subfolder for each class, a folder of photos (class ``None``: unlabelled), or a CSV
    file with lines ``file,label`` relative to it (a missing label: unlabelled). Subfolders and labels name a class by
    its label (case, ``_`` and ``-`` do not matter) or by its id; a label outranks an id.

    Files are not opened here. Raises DataError: no photos, a class that the network does not know, or a label that
    several classes share.
    """
    root = Path(path)
    lookup = _Lookup(classes)
    if root.is_dir():
        found = _from_folder(root, lookup)
    elif root.is_file():
        found = _from_csv(root, lookup)
    else:
        raise DataError(f"{root}: expected a folder of photos or a CSV file, found nothing")
    if lookup.unknown:
        raise DataError(
            f"{root}: {len(lookup.unknown)} names are no class of the network: {_some(lookup.unknown)}; "
            f"it has {len(classes)} classes: {_some(classes)}",
            unknown=sorted(lookup.unknown),
        )
    if not found:
        raise DataError(f"{root}: no photos ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if limit_per_class is None:
        return found
    taken: dict[int | None, int] = defaultdict(int)
    kept = []
    for file, class_id in found:
        taken[class_id] += 1
        if taken[class_id] <= limit_per_class:
            kept.append((file, class_id))
    return kept


class _Lookup:
    """Class ids by label or id; collects the names that are neither."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._ids: dict[str, list[int]] = defaultdict(list)
        for class_id, label in enumerate(classes):
            self._ids[_plain(label)].append(class_id)
        self._count = len(classes)
        self.unknown: set[str] = set()

    def __call__(self, name: str) -> int | None:
        ids = self._ids.get(_plain(name), [])
        if len(ids) > 1:
            raise DataError(
                f"several classes are labelled {name!r}: name one of the ids {', '.join(map(str, ids))}"
            )
        if ids:
            return ids[0]
        if name.isascii() and name.isdigit() and len(name) < 10 and int(name) < self._count:
            return int(name)
        self.unknown.add(name)
        return None


def _from_folder(root: Path, lookup: _Lookup) -> list[tuple[Path, int | None]]:
    found: list[tuple[Path, int | None]] = [(file, None) for file in _photos(root.iterdir())]
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        photos = list(_photos(folder.rglob("*")))
        if photos:
            class_id = lookup(folder.name)
            found += [(file, class_id) for file in photos]
    return found


def _from_csv(path: Path, lookup: _Lookup) -> list[tuple[Path, int | None]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [
                [cell.strip() for cell in row]
                for row in csv.reader(file, skipinitialspace=True)
                if row and row[0].strip()
            ]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file of file,label ({error})") from error
    if rows and rows[0][0].lower() in ("file", "filename", "path", "image"):
        rows = rows[1:]
    found: list[tuple[Path, int | None]] = []
    for line, row in enumerate(rows, start=1):
        if len(row) > 2:
            raise DataError(f"{path}: entry {line}: expected file,label, found {len(row)} cells")
        label = row[1] if len(row) == 2 else ""
        found.append((path.parent / row[0], lookup(label) if label else None))
    missing = [str(file) for file, _ in found if not file.is_file()]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(found)} files are missing: {_some(missing)}"
        )
    return found


def _photos(paths: Iterable[Path]) -> Iterator[Path]:
    return iter(
        sorted(
            p
            for p in paths
            if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file() and p.name[0] != "."
        )
    )


def _plain(label: str) -> str:
    return " ".join(label.lower().replace("_", " ").replace("-", " ").split())


def _some(names: Iterable[str]) -> str:
    shown = sorted(names) if isinstance(names, set) else list(names)
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")
