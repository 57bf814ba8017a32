"""Refinement at the tail: which answers are not sure, and how often sure ones are wrong.

Nothing is kept between the two requests of a photo.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...errors import WireError
from ...schema import Cut, FloatArray, Manifest
from ...wire import TailRequest, TailResponse, margins_of


class Again(NamedTuple):
    """The items of a first request that are to be sent again, and those of them that are sure."""

    refine: tuple[int, ...] = ()
    audit: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Audited:
    """A second request's sure items: how many there were, and how many got another class."""

    items: int = 0
    differing: int = 0


class Refiner:
    """Decides which items of first requests are sent again.

    Parameters:
        audit: the share of sure items that are sent again too, to see how often they are wrong.
        draw: a number from 0 to 1.
    """

    def __init__(
        self, manifest: Manifest, audit: float, draw: Callable[[], float] = random.random
    ) -> None:
        self._thresholds: dict[Cut, float] = {
            cut: refinement.threshold
            for refinement in manifest.refinements
            for cut in refinement.cuts
        }
        self._audit = audit
        self._draw = draw

    @staticmethod
    def check(request: TailRequest) -> None:
        """Raise WireError for a request that can have no second one."""
        if request.cut.is_refining and request.probe:
            raise WireError(f"a probe is one request: expected no fine quality, got {request.cut}")

    def again(self, request: TailRequest, scores: FloatArray) -> Again:
        """The items to send again, by their raw scores (N, classes)."""
        if not request.cut.is_refining or request.first is not None:
            return Again()
        unsure = margins_of(scores) <= self._thresholds[request.cut]
        drawn = np.array([self._draw() < self._audit for _ in unsure], np.bool_)
        return Again(
            tuple(np.flatnonzero(unsure | drawn).tolist()),
            tuple(np.flatnonzero(drawn & ~unsure).tolist()),
        )

    @staticmethod
    def audited(request: TailRequest, response: TailResponse) -> Audited:
        """The audit of a second request: what the device says of the first answer, and this one."""
        if request.first is None:
            return Audited()
        items = request.first.audited
        classes = [request.first.classes[item] for item in items]
        differing = int((response.top_class[list(items), 0] != classes).sum()) if items else 0
        return Audited(len(items), differing)
