"""The interface that every codec implements, built-in or from another package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import WireError
from ..schema import FloatArray
from .parameters import Scalar
from .quantize import Ranges
from .reader import Buffer
from .transform.transform import Transform


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """An activation as a codec writes it.

    Attributes:
        data: The bytes.
        parameters: Scalars that travel beside the bytes, as parameters of the tensor.
        quality: When it is decoded, the quality that the tensor states, one of
            :attr:`Codec.qualities`; ``None`` for a codec without them. ``encode`` leaves it out.
        transform: When it is decoded, the transform of the split point; ``None`` where none is.
    """

    data: Buffer
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    quality: int | None = None
    transform: Transform | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EncodeOptions:
    """How to encode an activation. A codec ignores the options that do not apply to it.

    Every option has a default, so that new ones can be added without a change to existing codecs.

    Attributes:
        channel_axis: The axis of the channels; axis 0 is the batch.
        ranges: Calibrated ranges (:meth:`Codec.calibrate`). ``None``: each item's own range.
        quality: One of :attr:`Codec.qualities`; ``None`` for a codec without them.
        transform: The transform of the split point; ``None`` where none was fitted.
    """

    channel_axis: int = 1
    ranges: Ranges | None = None
    quality: int | None = None
    transform: Transform | None = None


class Codec(ABC):
    """A way to write an activation (N, ...) as bytes and to read it back.

    The items of a batch are coded one by one: the other items never change a result. A codec keeps
    no state and is used by several threads at once.

    A codec with several rates lists them in :attr:`qualities`. Codec and quality together are a
    coding, ``dct@3`` in text form: manifests and profiles name codings, and so does a tensor on the
    wire. Each quality is measured, recommended and counted like a codec of its own.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The name on the wire, in profiles and on the command line, such as ``uint8+zstd``."""

    @property
    def qualities(self) -> tuple[int, ...]:
        """The rates, 0 to 99 and ascending, with more bytes for more; empty where there is one.

        ``encode`` gets the one to use in its options, ``decode`` in the payload.
        """
        return ()

    @property
    def needs_transform(self) -> bool:
        """Whether the codec works only where a transform was fitted for the split point."""
        return False

    @abstractmethod
    def encode(self, activation: FloatArray, options: EncodeOptions) -> Payload:
        """Write a finite, C-contiguous float32 array (N, ...).

        Raises WireError for options that do not fit the activation.
        """

    @abstractmethod
    def decode(self, payload: Payload, shape: tuple[int, ...]) -> FloatArray:
        """Read float32 of ``shape`` (N, ...).

        Bytes and parameters come from the network and may be hostile. An implementation raises
        WireError for everything that it cannot read, and allocates memory in proportion to
        ``shape``, never to a size that the payload announces.
        """

    @abstractmethod
    def max_size(self, shape: tuple[int, ...]) -> int:
        """An upper bound of the payload's bytes for an activation of ``shape`` (N, ...)."""

    def calibrate(self, activations: Iterable[FloatArray], channel_axis: int) -> Ranges:
        """Find the ranges of a calibration set, finite float32 arrays (N, ...).

        Raises WireError where the codec uses no ranges, or where there are no activations.
        """
        raise WireError(f"codec {self.name!r} uses no calibrated ranges")
