"""What an evaluation works on: the candidate split points, and which photos serve for what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..bottleneck import Autoencoder, AutoencoderConfig, Photos
from ..errors import DataError, SplitPointError
from ..network import CapturedNetwork
from ..schema import SplitPoint

__all__ = ["candidates", "divide_photos"]

_MIN_PHOTOS = 8

Ids = npt.NDArray[np.int64]


def candidates(
    net: CapturedNetwork, config: AutoencoderConfig, names: Sequence[str] | None = None
) -> tuple[list[SplitPoint], dict[str, str]]:
    """The split points where an autoencoder fits, in execution order.

    Parameters:
        names: split points to take; ``None`` takes all block outputs where the autoencoder fits.

    Returns:
        The split points; and the block outputs that were left out, each with the reason.

    Raises:
        SplitPointError: the autoencoder does not fit a split point given by name.
        UnknownSplitPointError: the network has no such split point.
    """
    if names is not None:
        chosen = {net.split_point(name).name for name in names}
        points = [point for point in net.split_points if point.name in chosen]
        for point in points:
            Autoencoder(point, config)
        return points, {}
    points = []
    left_out = {}
    for point in net.split_points:
        if point.is_block:
            try:
                Autoencoder(point, config)
                points.append(point)
            except SplitPointError as error:
                left_out[point.name] = error.message
    return points, left_out


def divide_photos(
    photos: Photos, *, calibration: int, test_limit: int | None = None
) -> tuple[Ids, Ids]:
    """Divide labelled photos into those for the predictors and those for the measurement.

    Both parts have photos of every class, and no photo is in both.

    Parameters:
        calibration: about how many photos are for the predictors; at most half of all.
        test_limit: most photos for the measurement; ``None`` takes all others.

    Returns:
        Rows of ``photos`` for the predictors, and rows for the measurement.

    Raises:
        DataError: there are fewer than eight labelled photos, or fewer than two of some class.
    """
    order = photos.sample(None if test_limit is None else test_limit + calibration)
    order = order[photos.labels[order] >= 0]
    labels = photos.labels[order]
    if len(order) < _MIN_PHOTOS:
        labelled = int((photos.labels >= 0).sum())
        raise DataError(
            f"an evaluation needs at least {_MIN_PHOTOS} labelled photos: "
            f"{labelled} of {len(photos)} are labelled"
        )
    count = min(calibration, len(order) // 2)
    is_calibration = np.zeros(len(order), dtype=bool)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        is_calibration[of_class[: max(1, round(count * float(len(of_class) / len(labels))))]] = True
    if set(labels[~is_calibration]) != set(labels):
        raise DataError(
            "an evaluation needs at least two labelled photos of every class: "
            "one for the predictors, one for the measurement"
        )
    return order[is_calibration], order[~is_calibration]
