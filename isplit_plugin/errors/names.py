"""Names that a server, a store, a network or a codec does not have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Self

from .base import IsplitError


class UnknownNameError(IsplitError):
    """A name is unknown. Message and ``details["known"]`` list known names where there are any."""

    status = 404
    code = "unknown_name"
    kind: ClassVar[str] = "name"

    @classmethod
    def of(cls, name: object, names: Iterable[object], *, limit: int = 60) -> Self:
        """The error for ``name``, which lists the first ``limit`` of the known ``names``."""
        known = [str(known_name) for known_name in names]
        listing = ", ".join(known[:limit]) or "none"
        if len(known) > limit:
            listing += f", ... ({len(known)} in all)"
        return cls(f"unknown {cls.kind} {str(name)[:200]!r}; known: {listing}", known=known[:limit])


class UnknownModelError(UnknownNameError):
    """A server, a store, or a library of networks has no model of this name."""

    code = "unknown_model"
    kind = "model"


class UnknownVersionError(UnknownModelError):
    """A server or a store has the model, but not this version or network of it.

    ``details["known"]`` lists the versions that are there, as far as they are known.
    """

    code = "unknown_version"
    kind = "version"


class UnknownClassError(UnknownNameError):
    """The network has no class of this id or name."""

    code = "unknown_class"
    kind = "class"


class UnknownRequestError(UnknownNameError):
    """A label came for a request that the store does not have, or no longer has."""

    code = "unknown_request"
    kind = "request"


class UnknownRouteError(UnknownNameError):
    """The forwarder passes nothing on under this method and path."""

    code = "unknown_route"
    kind = "route"


class UnknownSplitPointError(UnknownNameError):
    """The network, profile or manifest has no split point of this name."""

    code = "unknown_split_point"
    kind = "split point"


class UnknownCodecError(UnknownNameError):
    """A codec is unknown, or one side of the wire does not accept it."""

    code = "unknown_codec"
    kind = "codec"


class MissingCodecError(UnknownCodecError):
    """A codec is known, but the library that writes it is not installed on this side."""

    code = "codec_missing"
