"""The public names of isplit-plugin, for the API reference and for ``tests/test_public_names.py``.

A name is public when the ``__all__`` of a package in ``docs/reference/api.md`` lists it. Constants
have no ``__doc__``: their docstring, the string behind the assignment, is read from the source.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

REFERENCE = Path(__file__).parents[1] / "reference" / "api.md"


def documented_packages() -> list[str]:
    """The packages and modules that the page of the API reference lists, in its order."""
    return re.findall(r"^   (isplit_plugin[\w.]*)$", REFERENCE.read_text(), flags=re.MULTILINE)


def public_names(package: str) -> list[tuple[str, str]]:
    """Kind (``class``, ``exception``, ``function`` or ``data``) and name of all that it exports."""
    module = importlib.import_module(package)
    return [(kind(getattr(module, name)), name) for name in module.__all__]


def kind(value: object) -> str:
    """Which of autodoc's directives documents ``value``."""
    if inspect.isclass(value):
        return "exception" if issubclass(value, BaseException) else "class"
    return "function" if inspect.isroutine(value) else "data"


def docstring(package: str, name: str) -> str | None:
    """The docstring of a public name as its author wrote it; None where there is none."""
    value = getattr(importlib.import_module(package), name)
    if kind(value) == "data":
        return constant_docstring(importlib.import_module(package), name)
    if inspect.isclass(value):
        own = vars(value).get("__doc__")
        generated = own and own.startswith(f"{value.__name__}(")  # by dataclass or NamedTuple
        return None if generated else own
    return inspect.getdoc(value)


def constant_docstring(module: ModuleType, name: str) -> str | None:
    """The string literal behind the assignment of ``name``, in the module that assigns it."""
    tree = ast.parse(inspect.getsource(module))
    for statement, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        if name in _assigned(statement):
            return _literal(following)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return constant_docstring(_source(module, node), alias.name)
    return None


def _assigned(statement: ast.stmt) -> set[str]:
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _literal(statement: ast.stmt | None) -> str | None:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        value = statement.value.value
        return inspect.cleandoc(value) if isinstance(value, str) else None
    return None


def _source(module: ModuleType, statement: ast.ImportFrom) -> ModuleType:
    target = "." * statement.level + (statement.module or "")
    return importlib.import_module(target, module.__package__)


# What follows adapts autodoc to these names: Sphinx calls it.

NOTHING = "\\"
"""A first line that renders as nothing. Without it napoleon reads the docstring of a constant or
attribute "This: that." as a type, "This", and its description."""

STARRED = re.compile(r"([(, ])\*(?=\w+[),])")
"""The star of a shape such as (N, *shape), which reStructuredText would read as emphasis."""

ARRAY = re.compile(r"ndarray\[tuple\[[^\[\]]*\], (?:~?numpy\.)?dtype\[([^\[\]]*)\]\]")


def _remove_old_pages(app: Any) -> None:
    """Delete the pages that an earlier build made for packages that are gone."""
    packages = documented_packages()
    for page in REFERENCE.with_suffix("").glob("*.rst"):
        if page.stem not in packages:
            page.unlink()


def _document_constants(
    app: Any, what: str, full_name: str, value: object, options: Any, lines: list[str]
) -> None:
    if what == "data":
        package, _, name = full_name.rpartition(".")
        lines[:] = (docstring(package, name) or "").splitlines()
    if what in ("attribute", "data", "property") and lines:
        lines.insert(0, NOTHING)


def _escape_shapes(
    app: Any, what: str, full_name: str, value: object, options: Any, lines: list[str]
) -> None:
    lines[:] = [
        "``".join(
            part if index % 2 else STARRED.sub(r"\1\\*", part)
            for index, part in enumerate(line.split("``"))
        )
        for line in lines
    ]


def _skip_named_tuple_fields(
    app: Any, what: str, name: str, value: object, skip: bool, options: Any
) -> bool | None:
    return True if (getattr(value, "__doc__", "") or "").startswith("Alias for field") else None


def _shorten_signatures(
    app: Any,
    what: str,
    full_name: str,
    value: object,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    return _shorten(signature), _shorten(returns)


def _shorten(annotations: str | None) -> str | None:
    if annotations is None:
        return None
    return ARRAY.sub(r"NDArray[\1]", annotations.replace("<factory>", "..."))


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.connect("builder-inited", _remove_old_pages, priority=100)  # before autosummary
    app.connect("autodoc-process-docstring", _document_constants, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _escape_shapes, priority=400)
    app.connect("autodoc-skip-member", _skip_named_tuple_fields)
    app.connect("autodoc-process-signature", _shorten_signatures)
    return {"parallel_read_safe": True}
