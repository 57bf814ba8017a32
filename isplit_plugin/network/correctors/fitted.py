"""Fitted correctors: those to deploy, those to measure with, and what they bring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..transforms.fitted import fold_of
from .corrector import Corrector


@dataclass(frozen=True, slots=True)
class CorrectorFit:
    """How the corrector of a split point was trained, and what it brings.

    Attributes:
        steps: of the training. Equal steps, seed and photos give equal correctors on one machine.
        before, after: for each quality, the mean divergence of the answers from the full ones, in
            nats, without and with a corrector, on photos that neither it nor the transform has
            seen.
    """

    steps: int
    before: tuple[float, ...]
    after: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FittedCorrectors:
    """The correctors of a network.

    Attributes:
        correctors: split point -> its corrector, trained on all photos. These are deployed.
        without_fold: for each fold, the correctors that were trained without its photos. With them,
            the photos of the fold are measured.
        fits: split point -> how its corrector was trained.
    """

    correctors: Mapping[str, Corrector]
    without_fold: tuple[Mapping[str, Corrector], ...]
    fits: Mapping[str, CorrectorFit]

    def unseen(self, split_point: str, number: int) -> Corrector | None:
        """The corrector that calibration photo ``number`` is measured with."""
        return self.without_fold[fold_of(number)].get(split_point)
