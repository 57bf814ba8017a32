"""The tutorial of a fleet, run as it is written: from the wheel, behind the forwarder, with two
devices, labels, an upgrade and its rollback.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toys.pages import DOCS, Reader, blocks

PAGE = (DOCS / "tutorials" / "run-a-fleet-from-the-wheel.md").read_text()
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_a_fleet_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    install, train, package, secret, start, tokens, devices, label, ask, *rest = blocks(PAGE, "sh")
    assert "pip wheel" in install
    lesson = Reader(tmp_path, installed.parent)
    # What is imported is the wheel's, not the checkout's.
    lesson.environment.pop("PYTHONPATH", None)
    (shapes,) = blocks(PAGE, "python")
    (tmp_path / "shapes.py").write_text(shapes)
    export, *_ = train.splitlines()
    lesson.exports = export
    lesson.run(train)
    where = lesson.run("python -c 'import isplit_plugin; print(isplit_plugin.__file__)'")
    assert installed.parent.parent in Path(where.strip()).parents
    lesson.run(package)
    lesson.run(secret)
    lesson.environment["PYTHONPATH"] = "."
    with lesson.serving(start):
        lesson.run(tokens)
        address, _, _ = devices.partition("\n")
        lesson.run(devices)
        lesson.exports = f"{export}\n{address}"
        _check_predictions(tmp_path)
        assert "24 labels taken" in lesson.run(label)
        everybody = lesson.run(ask)
        assert everybody.count("shapes 1.0: use ") == 2
        upgrade, new_bundle, roll_back, revoke = rest
        lesson.run(upgrade)
        answers = lesson.run(new_bundle)
        assert "shapes 2.0: use " in answers
        assert "shapes 1.0: use " in answers
        assert "shapes 1.0: use " in lesson.run(roll_back)
        lesson.run(revoke)
        again = "isplit predict 'camera/red disc/0.jpg' --model shapes"
        again += " --head model_store/shapes.head.zip --device-token-file yard-1.token"
        assert "revoked" in lesson.run(again, code=3)


def _check_predictions(folder: Path) -> None:
    """The network has learned its classes, and its devices are known."""
    for who in ("door-1", "yard-1"):
        rows = json.loads((folder / f"{who}.json").read_text())
        assert len(rows) == 24
        assert {row["device"] for row in rows} == {"ok"}
        assert all(row["cut"].startswith("block2:") for row in rows)
        right = [row["label"] == Path(row["photo"]).parent.name for row in rows]
        assert sum(right) >= 22
