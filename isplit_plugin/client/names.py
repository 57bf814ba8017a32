"""The names of models and versions that a caller gives."""

from __future__ import annotations

from ..errors import QueryError


def check_model(model: str) -> str:
    """The name of a model. Raises QueryError for one that holds a version."""
    if not isinstance(model, str) or not model or "/" in model:
        hint = ""
        if isinstance(model, str) and model.count("/") == 1:
            name, version = model.split("/")
            hint = f": name the version apart, model={name!r}, version={version!r}"
        raise QueryError(
            f"model: expected the name of a model alone, got {str(model)[:100]!r}{hint}",
            field="model",
        )
    return model


def check_version(version: str) -> str:
    """The name of a version. Raises QueryError."""
    if not isinstance(version, str) or not version or "/" in version:
        raise QueryError(
            f"version: expected text such as '2.0', got {str(version)[:100]!r}", field="version"
        )
    return version
