"""Refinement on the wire: what the two requests of a photo say of each other.

The first request states the fine quality that would follow (``isplit_fine``). Its answer lists the
items that are to be sent again. The second request is complete in itself, because the server keeps
nothing: it carries those items in the fine quality, and states the coarse one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from ..errors import WireError
from ..schema import Cut, Manifest
from .codecs import unknown_codec
from .parameters import (
    P_AUDIT,
    P_COARSE,
    P_FINE,
    P_FIRST_BYTES,
    P_FIRST_CLASSES,
    Scalar,
    read_integer,
    read_text,
)

_MAX_LIST: Final = 32 * 1024


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """What a second request says of the first one and its answer.

    Attributes:
        nbytes: of the first request's body, the share of these items.
        classes: the first answer's class of each item.
        audited: the items, by their numbers in the second request, whose first answer was sure.
    """

    nbytes: int
    classes: tuple[int, ...]
    audited: tuple[int, ...] = ()

    def parameters(self) -> dict[str, Scalar]:
        """The parameters of the second request, besides the coarse quality."""
        parameters: dict[str, Scalar] = {
            P_FIRST_BYTES: self.nbytes,
            P_FIRST_CLASSES: write_numbers(self.classes),
        }
        if self.audited:
            parameters[P_AUDIT] = write_numbers(self.audited)
        return parameters


def read_refinement(
    parameters: Mapping[str, Scalar], cut: Cut, manifest: Manifest, items: int
) -> tuple[Cut, FirstAnswer | None]:
    """The refining cut of a first or second request; any other request's cut as it is.

    Parameters:
        cut: the split point, and the coding of the tensor.
        items: of the tensor.

    Raises:
        UnknownCodecError: the two qualities are no refining cut of the model.
        WireError: a parameter does not fit the items, or the request is a first and a second one.
    """
    if P_FINE in parameters and P_COARSE in parameters:
        raise WireError(f"expected {P_FINE} or {P_COARSE}, got both")
    if P_FINE in parameters:
        fine = read_integer(parameters, P_FINE, 0, low=0, high=99)
        return _known(replace(cut, fine=fine), manifest), None
    if P_COARSE not in parameters:
        return cut, None
    coarse = read_integer(parameters, P_COARSE, 0, low=0, high=99)
    refining = _known(replace(cut, quality=coarse, fine=cut.quality), manifest)
    classes = read_numbers(parameters, P_FIRST_CLASSES, below=len(manifest.classes))
    if len(classes) != items:
        raise WireError(f"{P_FIRST_CLASSES}: expected {items} classes, got {len(classes)}")
    nbytes = read_integer(parameters, P_FIRST_BYTES, 0, low=0, high=2**31 - 1)
    audited = read_items(parameters, P_AUDIT, items)
    return refining, FirstAnswer(nbytes, classes, audited)


def read_items(parameters: Mapping[str, Scalar], key: str, items: int) -> tuple[int, ...]:
    """Ascending numbers of items, empty without the parameter. Raises WireError."""
    if key not in parameters:
        return ()
    numbers = read_numbers(parameters, key, below=items)
    if any(after <= before for before, after in pairwise(numbers)):
        raise WireError(f"{key}: expected ascending numbers, got {str(parameters[key])[:40]!a}")
    return numbers


def read_numbers(parameters: Mapping[str, Scalar], key: str, *, below: int) -> tuple[int, ...]:
    """A parameter with whole numbers from 0 on and commas between them. Raises WireError."""
    text = read_text(parameters.get(key), key, limit=_MAX_LIST)
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and len(word) < 12 for word in words):
        raise WireError(f"{key}: expected whole numbers with commas, got {text[:40]!a}")
    numbers = tuple(map(int, words))
    if max(numbers) >= below:
        raise WireError(f"{key}: expected numbers below {below}, got {max(numbers)}")
    return numbers


def write_numbers(numbers: tuple[int, ...]) -> str:
    """The inverse of :func:`read_numbers`."""
    return ",".join(map(str, numbers))


def _known(cut: Cut, manifest: Manifest) -> Cut:
    refining = manifest.refining(cut.split_point)
    if cut.coding not in refining:
        raise unknown_codec(cut.coding, refining, at=cut.split_point)
    return cut
