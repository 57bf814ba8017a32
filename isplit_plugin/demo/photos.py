"""Real photos from PyPI wheels: 20 labelled ImageNet photos (foolbox) and what can be made of them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import DataError

_LABEL = re.compile(r"_(\d+)\.\w+$")
_FIRST_THING = 398
"""ImageNet's classes 0 to 397 are animals, the others things, plants and places."""


class Photo(NamedTuple):
    """A photo and its true class."""

    path: Path
    class_id: int

    @property
    def is_animal(self) -> bool:
        return self.class_id < _FIRST_THING


def labelled_photos() -> list[Photo]:
    """The 20 labelled ImageNet photos in the foolbox wheel. Raises DataError where they are missing."""
    spec = importlib.util.find_spec("foolbox")  # not imported: it would pull in its attacks
    if spec is None or spec.origin is None:
        raise DataError(
            "the demo's photos are in the wheel `foolbox`; pip install 'isplit-plugin[demo]'"
        )
    folder = Path(spec.origin).parent / "data"
    photos = []
    for path in sorted(folder.glob("imagenet_*.jpg")):
        match = _LABEL.search(path.name)
        if match:
            photos.append(Photo(path, int(match.group(1))))
    if not photos:
        raise DataError(
            f"{folder}: expected labelled photos named imagenet_NN_CLASS.jpg, found none"
        )
    return photos


def view(photo: Photo, rng: np.random.Generator) -> Image.Image:
    """Another look at a photo, as a camera would have it: a crop of 70 to 100 % of each side, flipped or not."""
    with Image.open(photo.path) as opened:
        image = opened.convert("RGB")
    share = rng.uniform(0.7, 1.0)
    width, height = (int(side * share) for side in image.size)
    left, top = (
        int(rng.integers(0, side - kept + 1))
        for side, kept in zip(image.size, (width, height), strict=True)
    )
    cut = image.crop((left, top, left + width, top + height))
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else cut
