"""The cut: where a network is split, and how what travels there is coded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..errors import QueryError

INPUT: Final = "input"
"""The split point before the first layer: the photo is sent, the server runs everything."""
OUTPUT: Final = "output"
"""The split point behind the last layer: nothing is sent, the device runs everything."""
NO_CODEC: Final = "none"
"""The codec at `output`, where nothing is sent."""
PHOTO_CODECS: Final = ("jpeg", "webp", "avif")
"""Photos cropped on the device, as files of these formats. Each has several qualities."""
PHOTO_FILE: Final = "file"
"""The codec of a photo as it is, without a crop."""
IMAGE_CODECS: Final = (*PHOTO_CODECS, PHOTO_FILE)
"""The codecs of photos, at split point `input`."""
TRANSFORM_CODEC: Final = "dct"
"""The codec that works only where a transform was fitted for the split point."""
MAX_QUALITY: Final = 99
"""The highest quality of a codec that has several."""

_CODEC: Final = re.compile(r"[a-z0-9][a-z0-9_.+\-]*\Z")
_QUALITY: Final = re.compile(r"([0-9]{1,2})(?:\+([0-9]{1,2}))?\Z")


@dataclass(frozen=True, slots=True)
class Cut:
    """A split point and the codec of the activation there.

    Attributes:
        split_point: the name of a split point or of a bottleneck, or ``input``, or ``output``.
        codec: the name of a codec. At ``input`` an image codec, at ``output`` ``none``.
        quality: for a codec that has several rates, which of them, 0 to 99, with more bytes for
            more; else ``None``. A photo of unknown quality has ``None`` too.
        fine: for a refining cut, the quality of the second request; else ``None``.

    The text form is ``split_point:codec``, with a quality ``split_point:codec@quality``, of a refining
    cut ``split_point:codec@quality+fine``. :func:`str` writes it and :meth:`parse` reads it back.
    """

    split_point: str
    codec: str
    quality: int | None = None
    fine: int | None = None

    def __str__(self) -> str:
        return f"{self.split_point}:{self.coding}"

    def __lt__(self, other: Cut) -> bool:
        return self._sort_key() < other._sort_key()

    @property
    def coding(self) -> str:
        """Codec and quality in text form: ``uint8+zstd``, ``dct@3``, of a refining cut ``dct@3+7``."""
        if self.quality is None:
            return self.codec
        fine = "" if self.fine is None else f"+{self.fine}"
        return f"{self.codec}@{self.quality}{fine}"

    @property
    def is_refining(self) -> bool:
        """Whether a photo is sent again, in a finer quality, where its answer is not sure."""
        return self.fine is not None

    @property
    def first(self) -> Cut:
        """The cut of the first request; the cut itself where there is no other."""
        return Cut(self.split_point, self.codec, self.quality)

    @property
    def second(self) -> Cut:
        """The cut of the second request; the cut itself where there is none."""
        return Cut(self.split_point, self.codec, self.quality if self.fine is None else self.fine)

    @property
    def is_photo(self) -> bool:
        """Whether an image file is sent rather than numbers."""
        return self.split_point == INPUT and self.codec in IMAGE_CODECS

    @classmethod
    def of(cls, split_point: str, coding: str) -> Cut:
        """The cut at ``split_point`` with a codec and quality in text form. Raises QueryError."""
        codec, mark, quality = coding.partition("@")
        matched = _QUALITY.match(quality)
        if not _CODEC.match(codec) or (mark and not matched):
            raise QueryError(
                f"cut: expected a codec such as uint8+zstd or dct@3, got {coding[:100]!r}",
                field="cut",
            )
        if matched is None:
            return cls(split_point, codec)
        coarse, fine = matched.groups()
        return cls(split_point, codec, int(coarse), None if fine is None else int(fine))

    @classmethod
    def parse(cls, text: str) -> Cut:
        """Read the text form. Raises QueryError where ``text`` is not one."""
        split_point, mark, coding = text.rpartition(":")
        if not mark or not split_point:
            raise QueryError(
                f"cut: expected SPLIT_POINT:CODEC, such as layer2:uint8+zstd, got {text[:100]!r}",
                field="cut",
            )
        return cls.of(split_point, coding)

    def _sort_key(self) -> tuple[str, str, int, int]:
        quality, fine = (-1 if of is None else of for of in (self.quality, self.fine))
        return self.split_point, self.codec, quality, fine


ON_DEVICE: Final = Cut(OUTPUT, NO_CODEC)
"""The whole network on the device."""
