"""Values of JSON, compared with the annotations of the type that they fill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

_MAX_INTEGER: Final = 2**63
_Row = TypeVar("_Row")


def filled(kind: type[_Row], values: Mapping[str, Any]) -> _Row:
    """An instance of a dataclass or named tuple. Strings, numbers and flags have checked types.

    A float may be NaN, which stands for null, but not infinite. Values of other types are left to
    the caller.

    Raises TypeError or ValueError that names the field.
    """
    for name, allowed in _scalar_types(kind).items():  # type: ignore[arg-type]
        if name in values:
            _check(f"{kind.__name__}.{name}", values[name], allowed)
    return kind(**values)


def _check(name: str, value: Any, allowed: tuple[type, ...]) -> None:
    if type(value) not in allowed and not (type(value) is int and float in allowed):
        names = " or ".join("null" if t is NoneType else t.__name__ for t in allowed)
        raise TypeError(f"{name}: expected {names}, got {type(value).__name__}")
    if type(value) is int and not -_MAX_INTEGER < value < _MAX_INTEGER:
        raise ValueError(f"{name}: expected an integer of at most 64 bits")
    if type(value) is float and math.isinf(value):
        raise ValueError(f"{name}: expected a finite number")


@cache
def _scalar_types(kind: type) -> dict[str, tuple[type, ...]]:
    """The types of each field that holds a scalar."""
    scalars = {str, int, float, bool, NoneType}
    types: dict[str, tuple[type, ...]] = {}
    for name, hint in get_type_hints(kind).items():
        parts = get_args(hint) if get_origin(hint) is UnionType else (hint,)
        if set(parts) <= scalars:
            types[name] = parts
    return types
