"""The parts of a split network, and the manifest that describes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

from ..errors import ArtifactError, QueryError, UnknownSplitPointError
from .cut import INPUT, OUTPUT, PHOTO_FILE, TRANSFORM_CODEC, Cut
from .refinement import Refinement

MANIFEST_FORMAT: Final = 1
"""Version of the manifest's format."""

_MIN_STD: Final = 1e-6
_MAX_STD: Final = 1e6


class Macs(NamedTuple):
    """Multiply-accumulate operations for one item, before (head) and after (tail) a split point."""

    head: int
    tail: int


@dataclass(frozen=True, slots=True)
class SplitPoint:
    """A place in a network where one tensor that depends on the input is live.

    Attributes:
        aliases: other names of the same tensor.
        shape: of the tensor, without batch.
        nbytes: of the uncoded tensor of one image.
        channel_axis: counted with the batch, so a convolution's is 1.
        stride_order: the axes, batch included, from the outermost to the innermost in memory. The
            wire carries row-major data only, and the tail restores this order.
        is_block: whether it is a block output.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    macs: Macs
    channel_axis: int
    stride_order: tuple[int, ...]
    is_block: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The name and all aliases."""
        return (self.name, *self.aliases)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> SplitPoint:
        return cls(
            name=str(raw["name"]),
            aliases=tuple(str(a) for a in raw["aliases"]),
            shape=tuple(int(d) for d in raw["shape"]),
            dtype=str(raw["dtype"]),
            nbytes=int(raw["nbytes"]),
            macs=Macs(*(int(m) for m in raw["macs"])),
            channel_axis=int(raw["channel_axis"]),
            stride_order=tuple(int(d) for d in raw["stride_order"]),
            is_block=bool(raw["is_block"]),
        )


BOTTLENECK_MARK: Final = "~"
"""Between the split point and the shape in a bottleneck's name: ``layer2~n64s4d2``."""


@dataclass(frozen=True, slots=True)
class BottleneckPoint:
    """A trained bottleneck as a place where one can cut.

    Its importance is another network's, so it is no point of the curve.

    Attributes:
        point: its code as what travels, under the bottleneck's name.
        of: the split point whose activation the encoder takes.
    """

    point: SplitPoint
    of: str

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> BottleneckPoint:
        return cls(SplitPoint.from_json(raw["point"]), str(raw["of"]))


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From a photo to the network's input, the same on device, server and in the profile.

    The photo is resized, cropped, scaled to [0, 1] and normalised.

    Attributes:
        crop: (height, width) of the centre crop.
        resize: pixels of the shorter side before the crop; ``None`` leaves the photo as it is.
        mean, std: subtracted from, and divided by, for each channel.
        interpolation: "bilinear", "bicubic" or "nearest".
        mode: Pillow's, "RGB" or "L".
    """

    crop: tuple[int, int]
    resize: int | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    mode: str = "RGB"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one preprocessed image."""
        return (1 if self.mode == "L" else 3, *self.crop)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Preprocessing:
        """Read it strictly. Raises ValueError for a mean or deviation that no image has."""
        height, width = raw["crop"]
        preprocessing = cls(
            crop=(int(height), int(width)),
            resize=None if raw["resize"] is None else int(raw["resize"]),
            mean=tuple(float(v) for v in raw["mean"]),
            std=tuple(float(v) for v in raw["std"]),
            interpolation=str(raw["interpolation"]),
            mode=str(raw["mode"]),
        )
        if not all(map(math.isfinite, preprocessing.mean)):
            raise ValueError(f"mean: expected finite numbers, got {preprocessing.mean}")
        if not all(_MIN_STD <= std <= _MAX_STD for std in preprocessing.std):
            raise ValueError(f"std: expected positive numbers, got {preprocessing.std}")
        return preprocessing


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a packaged model, which archive, head bundle, store and endpoint share.

    Attributes:
        input_shape: of one image, without batch.
        split_points: all points of the curve, in execution order.
        deployed: the names that are served. ``input`` and ``output`` always are besides.
        codecs: the codings of activations that the tail accepts: a codec's name, and for a codec
            with several qualities one entry for each, ``dct@3``.
        default: the cut that a client starts with.
        files: SHA-256 of each file in the bundle or archive, by its path there.
        created_with: versions of Python and of packages.
        bottlenecks: trained bottlenecks. Their names can stand in ``deployed`` and wherever a
            served split point is named.
        photos: the codings of photos that the tail accepts at `input`, such as ``webp@75``. The
            photo as it is, codec ``file``, always is besides.
        usual: what a cut means that leaves something out: the first cut at a split point is the
            split point's, the first of a codec there is the codec's.
        transforms: the deployed split points with a transform, where the codec ``dct`` works.
        correctors: those of them where the tail corrects what it decodes.
        weights: in a head bundle, for each split point whose ONNX head shares weights with others,
            the files with them. Head and files, one after the other, are the whole head.
        refinements: proven ones, at most one for each of these split points.
    """

    model: str
    version: str
    network_hash: str
    input_shape: tuple[int, ...]
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    split_points: tuple[SplitPoint, ...]
    deployed: tuple[str, ...]
    codecs: tuple[str, ...]
    default: Cut
    files: Mapping[str, str] = field(default_factory=dict)
    created_with: Mapping[str, str] = field(default_factory=dict)
    bottlenecks: tuple[BottleneckPoint, ...] = ()
    photos: tuple[str, ...] = ("jpeg@90",)
    usual: tuple[Cut, ...] = ()
    transforms: tuple[str, ...] = ()
    correctors: tuple[str, ...] = ()
    weights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refinements: tuple[Refinement, ...] = ()

    @property
    def usual_photo(self) -> Cut:
        """The photo that is sent at `input` where nobody says in which form."""
        photos = (*self.usual, *(Cut.of(INPUT, coding) for coding in self.photos))
        return next((cut for cut in photos if cut.is_photo), Cut(INPUT, PHOTO_FILE))

    def codings(self, split_point: str) -> tuple[str, ...]:
        """The codings of activations that the tail accepts at a split point.

        They are ``codecs``, without those of the codec ``dct`` where there is no transform.
        """
        if split_point in self.transforms:
            return self.codecs
        return tuple(c for c in self.codecs if c.partition("@")[0] != TRANSFORM_CODEC)

    def refining(self, split_point: str) -> tuple[str, ...]:
        """The codings of refining cuts at a split point, such as ``dct@3+7``."""
        cuts = (cut for refinement in self.refinements for cut in refinement.cuts)
        return tuple(cut.coding for cut in cuts if cut.split_point == split_point)

    def split_point(self, name: str) -> SplitPoint:
        """The split point or bottleneck of a name or alias. Raises UnknownSplitPointError."""
        for point in self.split_points:
            if name == point.name or name in point.aliases:
                return point
        for bottleneck in self.bottlenecks:
            if name == bottleneck.point.name:
                return bottleneck.point
        raise UnknownSplitPointError.of(name, (INPUT, *(p.name for p in self.split_points), OUTPUT))

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types; :meth:`from_json` is its inverse."""
        raw = asdict(self)
        raw["default"] = str(self.default)
        raw["usual"] = [str(cut) for cut in self.usual]
        raw["refinements"] = [refinement.to_json() for refinement in self.refinements]
        raw["format"] = MANIFEST_FORMAT
        return raw

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], *, where: str = "manifest") -> Manifest:
        """Read a manifest strictly. Raises ArtifactError naming ``where`` and what is wrong."""
        try:
            if int(raw["format"]) > MANIFEST_FORMAT:
                raise ArtifactError(
                    f"{where}: format {raw['format']} is newer than {MANIFEST_FORMAT}, the newest this version reads"
                )
            return cls(
                model=str(raw["model"]),
                version=str(raw["version"]),
                network_hash=str(raw["network_hash"]),
                input_shape=tuple(int(d) for d in raw["input_shape"]),
                preprocessing=Preprocessing.from_json(raw["preprocessing"]),
                classes=tuple(str(c) for c in raw["classes"]),
                split_points=tuple(SplitPoint.from_json(p) for p in raw["split_points"]),
                deployed=tuple(str(d) for d in raw["deployed"]),
                codecs=tuple(str(c) for c in raw["codecs"]),
                default=Cut.parse(str(raw["default"])),
                files={str(k): str(v) for k, v in raw["files"].items()},
                created_with={str(k): str(v) for k, v in raw["created_with"].items()},
                bottlenecks=tuple(BottleneckPoint.from_json(v) for v in raw.get("bottlenecks", ())),
                photos=tuple(str(coding) for coding in raw["photos"]),
                usual=tuple(Cut.parse(str(cut)) for cut in raw["usual"]),
                transforms=tuple(str(n) for n in raw.get("transforms", ())),
                correctors=tuple(str(n) for n in raw.get("correctors", ())),
                weights={
                    str(k): tuple(str(n) for n in v) for k, v in raw.get("weights", {}).items()
                },
                refinements=tuple(Refinement.from_json(r) for r in raw.get("refinements", ())),
            )
        except (
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
            AttributeError,
            QueryError,
        ) as error:
            raise ArtifactError(
                f"{where}: not a manifest ({type(error).__name__}: {error})"
            ) from error
