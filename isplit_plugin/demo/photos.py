"""Real photos: the 20 labelled ImageNet photos in the wheel `foolbox`, and views of them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from ..errors import DataError

_LABEL: Final = re.compile(r"_(\d+)\.\w+$")
_FIRST_THING: Final = 398
"""ImageNet's classes 0 to 397 are animals. The others are things, plants and places."""


class Photo(NamedTuple):
    """A photo and its true class."""

    path: Path
    class_id: int

    @property
    def is_animal(self) -> bool:
        return self.class_id < _FIRST_THING


def labelled_photos() -> list[Photo]:
    """The labelled ImageNet photos of the wheel `foolbox`. Raises DataError without them."""
    spec = importlib.util.find_spec("foolbox")  # not imported: it would pull in its attacks
    if spec is None or spec.origin is None:
        raise DataError("the demo's photos come with `foolbox`: pip install 'isplit-plugin[demo]'")
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
    """A view of a photo, as another camera has it: 70 to 100 % of each side, at random flipped."""
    with Image.open(photo.path) as opened:
        image = opened.convert("RGB")
    share = rng.uniform(0.7, 1.0)
    width = int(image.width * share)
    height = int(image.height * share)
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    cropped = image.crop((left, top, left + width, top + height))
    return cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else cropped
