"""Turn the published archives into image folders: ``DIR/<data set>/{train,val}/<class>/<image>`` and ``classes.txt``.

- notMNIST: duplicates (equal pixels) are dropped first, then 70 % of each letter train and 30 % are held out.
- Chest X-Ray Pneumonia: the official train and test folders; the files are copied as they are.
- Tiny-ImageNet: the first 20 or all 100 class folders (by WordNet id), the official train and val images.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import zipfile
from collections import defaultdict
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import PIL.Image

from .networks import DATA_SETS


def prepare(data: str, source: Path, out: Path, *, limit: int | None = None) -> Path:
    """Write one data set below ``out``; what is there already stays. ``limit``: photos of each class and part, for a
    quick try. Returns its folder."""
    folder = out / data
    if (folder / "classes.txt").exists():
        return folder
    make = {"notmnist": _notmnist, "chest": _chest}.get(data) or partial(_tiny, DATA_SETS[data])
    classes = make(source, folder)
    for part in folder.glob("*/*"):
        for surplus in sorted(part.iterdir())[limit or sys.maxsize :]:
            surplus.unlink()
    (folder / "classes.txt").write_text("".join(f"{label}\n" for label in classes))
    return folder


def _notmnist(source: Path, folder: Path) -> list[str]:
    with np.load(source / "notmnist_10k.npz", allow_pickle=False) as file:
        images, labels, classes = file["images"], file["labels"], [str(c) for c in file["classes"]]
    seen: set[bytes] = set()
    by_class: dict[int, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        digest = hashlib.sha256(image.tobytes()).digest()
        if digest not in seen:
            seen.add(digest)
            by_class[int(labels[index])].append(index)
    rng = np.random.default_rng(0)
    for class_id, rows in sorted(by_class.items()):
        order = rng.permutation(rows)
        for place, index in enumerate(order):
            part = "train" if place < 0.7 * len(order) else "val"
            path = folder / part / classes[class_id] / f"{index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(images[index].reshape(28, 28)).save(path)
    return classes


def _chest(source: Path, folder: Path) -> list[str]:
    with zipfile.ZipFile(source / "chest_xray_224.zip") as archive:
        for name in archive.namelist():
            parts = PurePosixPath(name).parts
            if len(parts) == 4 and parts[1] in ("train", "test"):
                part = "train" if parts[1] == "train" else "val"
                _write(archive, name, folder / part / parts[2] / parts[3])
    return ["NORMAL", "PNEUMONIA"]


def _tiny(count: int, source: Path, folder: Path) -> list[str]:
    with zipfile.ZipFile(source / "tiny_imagenet_100.zip") as archive:
        files = [p for name in archive.namelist() if len((p := PurePosixPath(name)).parts) == 3]
        classes = sorted({p.parts[1] for p in files})[:count]
        for path in files:
            if path.parts[1] in classes:
                _write(archive, str(path), folder.joinpath(*path.parts))
    return classes


def _write(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive.read(name))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="folder with the archives")
    parser.add_argument("--work", type=Path, required=True, help="where the image folders go")
    parser.add_argument("data", nargs="*", default=sorted(DATA_SETS), help="%(default)s")
    options = parser.parse_args()
    for data in options.data:
        print(prepare(data, options.source, options.work))


if __name__ == "__main__":
    main()
