"""The wheel in an environment of its own: what it holds, and that its documentation is there."""

from __future__ import annotations

import zipfile
from pathlib import Path

from toys.wheel import ROOT, run

from isplit_plugin.cli.docs import pages


def test_the_documentation_is_installed(installed: Path, tmp_path: Path) -> None:
    isplit = installed.parent / "isplit"
    listed = run(isplit, "docs", cwd=tmp_path)
    assert [line.split()[0] for line in listed.splitlines()] == list(pages(ROOT))
    settings = run(isplit, "docs", "settings", cwd=tmp_path)
    assert settings.startswith("# Settings")
    assert (ROOT / "config" / "model-config.yaml").read_text().rstrip() in settings
    assert run(isplit, "docs", "changelog", cwd=tmp_path).startswith("# Changelog")
    folder = Path(run(isplit, "docs", "--path", cwd=tmp_path).strip())
    assert installed.parent.parent in folder.parents


def test_the_wheel_holds_what_the_package_needs_and_nothing_beside_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    assert len(names) == len(set(names))
    assert {name.split("/")[0] for name in names} == {"isplit_plugin", metadata.split("/")[0]}
    for name in ("_config/log4j2.xml", "_handlers/tail_handler.py", "_docs/docs/index.md"):
        assert f"isplit_plugin/{name}" in names
    # Nothing is published yet, so there is no address to give.
    assert "Project-URL" not in text
    assert "`isplit docs`" in text
