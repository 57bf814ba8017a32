"""A mutator that knows JSON: most mutations of its bytes would only break its syntax."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, Final

Mutate = Callable[[bytes, int], bytes]
"""A mutator of bytes: the case, and the most bytes of its result."""

_NUMBERS: Final = (
    0,
    -1,
    1,
    2,
    255,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    10**400,
    1.5,
    -0.0,
    1e308,
    5e-324,
)
_TEXTS: Final = (
    *(
        "",
        " ",
        "\0",
        "\n",
        "\r\n[METRICS]x.Count:1",
        "\x1b[2J",
        "\ud800",
        "\u202e",
        "\u00b2",
        "e\u0301",
    ),
    *("../../etc/passwd", "a" * 200, "1,2,3", "-1", "1e999", "NaN", "null", "%s{0}", "'--", "=1+1"),
)
_DEEP: Final = 400


def mutate_case(
    case: bytes, max_size: int, seed: int, *, at: int, words: tuple[str, ...], mutate: Mutate
) -> bytes:
    """A case that differs from this one.

    Parameters:
        case: Bytes, JSON from ``at`` to the first null byte, and more bytes behind it.
        max_size: The most bytes of the result.
        seed: What the random choices follow from.
        at: Where the JSON begins.
        words: Names and values of the format.
        mutate: Mutates bytes, where they are not JSON.
    """
    rng = random.Random(seed)
    text, null, rest = case[at:].partition(b"\0")
    if rng.random() < 0.3:
        return mutate(case, max_size)
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return mutate(case, max_size)
    if rest and rng.random() < 0.3:
        rest = mutate(rest, len(rest) + 64)
    try:
        for _ in range(rng.randint(1, 3)):
            tree = _mutated(tree, rng, words)
        result = case[:at] + json.dumps(tree).encode() + null + rest
    except (ValueError, OverflowError, RecursionError):
        return mutate(case, max_size)
    return result if len(result) <= max_size else mutate(case, max_size)


def _mutated(tree: Any, rng: random.Random, words: tuple[str, ...]) -> Any:
    """The tree with one change: at this node, or below one of its children."""
    if isinstance(tree, dict) and tree and rng.random() < 0.85:
        return _mutated_object(dict(tree), rng, words)
    if isinstance(tree, list) and tree and rng.random() < 0.85:
        return _mutated_list(list(tree), rng, words)
    return _value(tree, rng, words)


def _mutated_object(node: dict[str, Any], rng: random.Random, words: tuple[str, ...]) -> Any:
    name = rng.choice(list(node))
    choice = rng.random()
    if choice < 0.75:
        node[name] = _mutated(node[name], rng, words)
    elif choice < 0.83:
        del node[name]
    elif choice < 0.91:
        node[_text("", rng, words)] = node[name]
    else:
        node[_text(name, rng, words)] = node.pop(name)
    return node


def _mutated_list(node: list[Any], rng: random.Random, words: tuple[str, ...]) -> Any:
    place = rng.randrange(len(node))
    choice = rng.random()
    if choice < 0.75:
        node[place] = _mutated(node[place], rng, words)
    elif choice < 0.83:
        del node[place]
    elif choice < 0.91:
        node.insert(rng.randrange(len(node) + 1), node[place])
    else:
        node *= rng.choice((2, 17))
    return node


def _value(value: Any, rng: random.Random, words: tuple[str, ...]) -> Any:
    """A value in the place of this one, often of its own type."""
    choice = rng.random()
    if choice < 0.35 and isinstance(value, int | float) and not isinstance(value, bool):
        return value + rng.choice((-1, 1, 0.5, -value, value))
    if choice < 0.45 and isinstance(value, str):
        return _text(value, rng, words)
    if choice < 0.65:
        return rng.choice(_NUMBERS)
    if choice < 0.85:
        return _text("", rng, words)
    if choice < 0.9:
        return _nested(rng)
    return rng.choice((None, True, False, [], {}, [value], {"a": value}))


def _text(text: str, rng: random.Random, words: tuple[str, ...]) -> str:
    choice = rng.random()
    if words and choice < 0.5:
        return rng.choice(words)
    if choice < 0.8 or not text:
        return rng.choice(_TEXTS)
    place = rng.randrange(len(text) + 1)
    return (
        text[:place] + rng.choice((*_TEXTS, ",", ".", ":", "0")) + text[place + rng.randint(0, 2) :]
    )


def _nested(rng: random.Random) -> Any:
    node: Any = 0
    for _ in range(rng.randint(2, _DEEP)):
        node = [node] if rng.random() < 0.9 else {"a": node}
    return node
