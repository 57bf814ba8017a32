from __future__ import annotations

from pathlib import Path

import pytest

from isplit_plugin.errors import DataError
from isplit_plugin.network import calibration_folder

CLASSES = ("tench", "Golden Retriever", "7", "crane", "crane")


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"never opened here")
    return root


def listed(path: Path, **options: int) -> list[tuple[str, int | None]]:
    root = path if path.is_dir() else path.parent
    return [
        (file.relative_to(root).as_posix(), class_id)
        for file, class_id in calibration_folder(path, CLASSES, **options)
    ]


def test_folders_name_classes_by_label_or_id(tmp_path: Path) -> None:
    files(
        tmp_path,
        "tench/b.jpg",
        "tench/a.PNG",
        "tench/deep/c.jpeg",
        "golden_retriever/d.webp",
        "3/e.jpg",
        "7/f.jpg",
    )
    assert listed(tmp_path) == [
        ("3/e.jpg", 3),
        ("7/f.jpg", 2),  # the name "7" takes precedence over the id 7
        ("golden_retriever/d.webp", 1),
        ("tench/a.PNG", 0),
        ("tench/b.jpg", 0),
        ("tench/deep/c.jpeg", 0),
    ]


def test_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    files(tmp_path, "b.jpg", "a.jpg", "notes.txt", ".hidden.jpg", "empty/readme.md", ".git/x.jpg")
    assert listed(tmp_path) == [("a.jpg", None), ("b.jpg", None)]


@pytest.mark.parametrize("header", ["", "file,label\n", "\ufefffile,label\n"])
def test_csv(tmp_path: Path, header: str) -> None:
    files(tmp_path, "a.jpg", "in/b.jpg", "c.jpg", "d.jpg")
    table = tmp_path / "list.csv"
    table.write_text(header + 'a.jpg,tench\n\nin/b.jpg, "4"\nc.jpg,\nd.jpg\n', encoding="utf-8")
    assert listed(table) == [("a.jpg", 0), ("in/b.jpg", 4), ("c.jpg", None), ("d.jpg", None)]


def test_limit_counts_each_class_alone(tmp_path: Path) -> None:
    files(tmp_path, "x.jpg", "y.jpg", "0/a.jpg", "0/b.jpg", "0/c.jpg", "1/d.jpg")
    assert listed(tmp_path, limit_per_class=1) == [("x.jpg", None), ("0/a.jpg", 0), ("1/d.jpg", 1)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["whale/a.jpg", "shark/b.jpg", "tench/c.jpg"],
            "2 names are not classes of the network: shark, whale; it has 5",
        ),
        (["5/a.jpg"], "not classes of the network: 5"),
        (["-1/a.jpg"], "not classes of the network: -1"),
        (["²/a.jpg"], "not classes of the network: ²"),
        (["crane/a.jpg"], "several classes are named 'crane': use one of their ids, 3, 4"),
        (["notes.txt"], "expected photos .*got none"),
        ([], "expected photos .*got none"),
    ],
)
def test_unusable_folders(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        calibration_folder(files(tmp_path, *names), CLASSES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.jpg,tench\nabsent.jpg,tench\n", "1 of 2 files are missing: .*absent.jpg"),
        (b"a.jpg,tench,7\n", "entry 1: expected file,label, got 3 cells"),
        (b"a.jpg,whale\n", "not classes of the network: whale"),
        (b"", "expected photos .*got none"),
        (b"\xff\xfe\x00\x01", "expected a CSV file"),
        (b'a.jpg,"' + b"x" * 200_000 + b'"\n', "expected a CSV file"),
    ],
)
def test_unusable_tables(tmp_path: Path, content: bytes, message: str) -> None:
    files(tmp_path, "a.jpg")
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        calibration_folder(tmp_path / "list.csv", CLASSES)


def test_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got no such path"):
        calibration_folder(tmp_path / "absent", CLASSES)
