"""The checks of ``make``, and the tests on every supported version of Python.

    nox --list
    nox -s lint docs               # as make lint and make docs
    nox -s tests-3.12              # without servers and slow tests, on Python 3.12
    nox -s tests-3.12 -- tests/wire     # arguments of pytest behind --
    nox -s tests                   # on every supported version that this machine has

A session makes its own environment in ``.nox`` at its first run, which installs about 5.5 GB
(torch brings its CUDA libraries), and uses it again later. To install nothing, run a session in
the environment that ``make setup`` made::

    . .venv/bin/activate
    nox --no-venv -s lint tests
"""

from __future__ import annotations

import nox

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
"""The supported versions. nox skips those that are not installed, unless CI is set."""

nox.options.sessions = ["lint", "tests", "docs"]
nox.options.reuse_venv = "yes"


def install(session: nox.Session, extra: str) -> None:
    """Install the package with an extra and the pinned versions, but not under ``--no-venv``."""
    if session.virtualenv.is_sandboxed:
        session.install("--constraint", "constraints.txt", "--editable", f".[{extra}]")


@nox.session(python=PYTHONS[0])
def lint(session: nox.Session) -> None:
    """ruff, mypy and import-linter."""
    install(session, "dev")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests without servers and slow ones, or what is named behind ``--``."""
    install(session, "dev")
    chosen = session.posargs or ["-m", "not server and not slow"]
    session.run("python", "-m", "pytest", *chosen)


@nox.session(python=PYTHONS[0])
def docs(session: nox.Session) -> None:
    """The documentation, in build/docs. Every warning is an error."""
    install(session, "docs")
    session.run(
        *("sphinx-build", "-W", "--keep-going", "--builder", "html"),
        *("--doctree-dir", "build/doctrees", "docs", "build/docs"),
    )
