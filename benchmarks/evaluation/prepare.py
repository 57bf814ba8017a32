"""Preparing the data sets: from the published archives to folders of images.

Each data set becomes ``DIR/<data set>/{train,val}/<class>/<image>`` and ``classes.txt``.

- notMNIST: without duplicates (equal pixels); 70 % of each letter are for training.
- Chest X-Ray Pneumonia: the official train and test folders, with the files as they are.
- Tiny-ImageNet: the first 20 or all 100 classes by WordNet id, the official train and val images.
"""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from collections import defaultdict
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import PIL.Image

from .networks import DATA_SETS

TRAIN_SHARE = 0.7


def prepare(data: str, source: Path, out: Path, *, limit: int | None = None) -> Path:
    """Write one data set to a folder in ``out``, unless it exists already. Returns the folder.

    ``limit`` keeps only so many photos of each class and part, to try something quickly.
    """
    folder = out / data
    if (folder / "classes.txt").exists():
        return folder
    writers = {"notmnist": _write_notmnist, "chest": _write_chest}
    write = writers.get(data) or partial(_write_tiny, DATA_SETS[data])
    classes = write(source, folder)
    if limit is not None:
        for class_folder in folder.glob("*/*"):
            for surplus in sorted(class_folder.iterdir())[limit:]:
                surplus.unlink()
    (folder / "classes.txt").write_text("".join(f"{label}\n" for label in classes))
    return folder


def _write_notmnist(source: Path, folder: Path) -> list[str]:
    with np.load(source / "notmnist_10k.npz", allow_pickle=False) as file:
        images = file["images"]
        labels = file["labels"]
        classes = [str(name) for name in file["classes"]]
    digests: set[bytes] = set()
    rows_by_class: dict[int, list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        digest = hashlib.sha256(image.tobytes()).digest()
        if digest not in digests:
            digests.add(digest)
            rows_by_class[int(labels[row])].append(row)
    rng = np.random.default_rng(0)
    for class_id, rows in sorted(rows_by_class.items()):
        for position, row in enumerate(rng.permutation(rows)):
            part = "train" if position < TRAIN_SHARE * len(rows) else "val"
            path = folder / part / classes[class_id] / f"{row:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(images[row].reshape(28, 28)).save(path)
    return classes


def _write_chest(source: Path, folder: Path) -> list[str]:
    with zipfile.ZipFile(source / "chest_xray_224.zip") as archive:
        for name in archive.namelist():
            parts = PurePosixPath(name).parts
            if len(parts) == 4 and parts[1] in ("train", "test"):
                part = "train" if parts[1] == "train" else "val"
                _extract(archive, name, folder / part / parts[2] / parts[3])
    return ["NORMAL", "PNEUMONIA"]


def _write_tiny(count: int, source: Path, folder: Path) -> list[str]:
    with zipfile.ZipFile(source / "tiny_imagenet_100.zip") as archive:
        paths = [PurePosixPath(name) for name in archive.namelist()]
        paths = [path for path in paths if len(path.parts) == 3]
        classes = sorted({path.parts[1] for path in paths})[:count]
        for path in paths:
            if path.parts[1] in classes:
                _extract(archive, str(path), folder.joinpath(*path.parts))
    return classes


def _extract(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive.read(name))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="folder of the archives")
    parser.add_argument("--work", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "data", nargs="*", default=sorted(DATA_SETS), help="data sets (default: %(default)s)"
    )
    options = parser.parse_args()
    for data in options.data:
        print(prepare(data, options.source, options.work))


if __name__ == "__main__":
    main()
