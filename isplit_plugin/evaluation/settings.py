"""The settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..bottleneck import AutoencoderConfig, Budget
from .baselines import BASELINE_CODECS

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What an evaluation trains and measures.

    Attributes:
        config: size of the autoencoders.
        budget: budget of each training.
        seeds: one training at each split point for each seed.
        calibration: about how many test photos are for the predictors; these do not measure.
        test_limit: most photos that measure the accuracy; ``None`` takes all others.
        baseline_photos: how many of these also measure baselines and codes.
        repeats: number of bootstrap resamples.
        predictors: names of the predictors; ``None`` takes all registered ones.
        code_codecs: codecs to measure on the codes.
        baseline_codecs: codecs to measure on the activations.
    """

    config: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    budget: Budget = field(default_factory=Budget)
    seeds: tuple[int, ...] = (0, 1, 2)
    calibration: int = 256
    test_limit: int | None = None
    baseline_photos: int = 500
    repeats: int = 1000
    predictors: tuple[str, ...] | None = None
    code_codecs: tuple[str, ...] = ("uint8", "q4+rle+zstd", "q2+rle+zstd")
    baseline_codecs: tuple[str, ...] = BASELINE_CODECS

    def to_json(self) -> dict[str, Any]:
        """The settings of the trainings and of the bootstrap, in JSON types."""
        return {
            "autoencoder": self.config.to_json(),
            "budget": self.budget.to_json(),
            "seeds": list(self.seeds),
            "bootstrap": self.repeats,
        }
