"""The steps of an evaluation: train, measure and score."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ..bottleneck import (
    Bottleneck,
    CodeMeasurement,
    EpochResult,
    Photos,
    Targets,
    decoder_tail,
    encoder_head,
    input_batches,
    measure_codes,
    train_bottlenecks,
)
from ..network import CapturedNetwork
from ..schema import Preprocessing, SplitPoint
from .baselines import Baseline, codec_baselines, image_baselines
from .bootstrap import MeasuredAnswers, Resamples
from .predictors import Predictor, PredictorContext
from .scores import Score, score_predictor
from .settings import Settings

__all__ = ["Steps"]

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of an evaluation, and what they share."""

    name: str
    net: CapturedNetwork
    points: Sequence[SplitPoint]
    train_photos: Photos
    test_photos: Photos
    preprocessing: Preprocessing
    settings: Settings
    progress: Progress | None

    @property
    def point_names(self) -> list[str]:
        return [point.name for point in self.points]

    def report(self, line: str) -> None:
        if self.progress is not None:
            self.progress(f"{self.name}: {line}")

    def train(self, directory: Path | None) -> list[list[Bottleneck]]:
        """For each seed, a trained bottleneck at each split point."""
        started = time.process_time()
        bottlenecks = []
        for seed in self.settings.seeds:
            bottlenecks.append(
                train_bottlenecks(
                    self.net,
                    self.point_names,
                    self.train_photos,
                    preprocessing=self.preprocessing,
                    test=self.test_photos,
                    config=self.settings.config,
                    budget=self.settings.budget,
                    seed=seed,
                    codecs=(),
                    directory=None if directory is None else directory / f"seed{seed}",
                    progress=self._report_last_epoch,
                )
            )
            seconds = time.process_time() - started
            self.report(f"seed {seed}: {len(self.points)} bottlenecks, {seconds:.0f} s of CPU")
        return bottlenecks

    def _report_last_epoch(self, bottleneck: str, epoch: EpochResult) -> None:
        if epoch.epoch == self.settings.budget.stage_epochs(epoch.stage):
            self.report(f"{bottleneck}: agreement {epoch.agreement:.1%}")

    def measure_answers(
        self, bottlenecks: Sequence[Sequence[Bottleneck]], rows: Ids
    ) -> MeasuredAnswers:
        """The answers with each bottleneck, without a codec."""
        answers = [
            np.stack([self._answers(bottleneck, rows) for bottleneck in of_seed], axis=1)
            for of_seed in bottlenecks
        ]
        return MeasuredAnswers(np.stack(answers), self.test_photos.labels[rows])

    def _answers(self, bottleneck: Bottleneck, rows: Ids) -> Ids:
        head = encoder_head(self.net, bottleneck)
        tail = decoder_tail(self.net, bottleneck)
        with torch.inference_mode():
            batches = [
                tail(head(x)).argmax(dim=1).cpu().numpy()
                for x in input_batches(self.net, self.test_photos, rows)
            ]
        return np.concatenate(batches)

    def score_predictors(
        self, predictors: Mapping[str, Predictor], rows: Ids, measured: MeasuredAnswers
    ) -> tuple[dict[str, Array], list[Score]]:
        """The predictors' values on the calibration photos, and their scores."""
        context = PredictorContext(self.net, tuple(self.points), self.test_photos, rows)
        context.scores  # noqa: B018 - computed now, so that no predictor is charged for it
        resamples = Resamples(measured, self.settings.repeats)
        predictions = {}
        scores = []
        for name, predictor in predictors.items():
            started = time.process_time()
            predictions[name] = predictor(context)
            seconds = (time.process_time() - started) / len(rows)
            score = score_predictor(
                name,
                predictions[name],
                self.test_photos.labels[rows],
                resamples,
                points=self.point_names,
                stages=[point.shape for point in self.points],
                seconds=seconds,
            )
            scores.append(score)
            self.report(
                f"{name}: Spearman {score.spearman.value:.2f}, {1e3 * seconds:.1f} ms per photo"
            )
        return predictions, scores

    def measure_baselines(self, targets: Targets) -> list[Baseline]:
        """The baselines, which need no training."""
        codecs = self.settings.baseline_codecs
        baselines = [
            *image_baselines(self.net, self.test_photos, targets),
            *codec_baselines(self.net, self.point_names, self.test_photos, targets, codecs=codecs),
        ]
        self.report("baselines measured")
        return baselines

    def measure_codes(
        self, bottlenecks: Sequence[Sequence[Bottleneck]], targets: Targets
    ) -> list[list[tuple[CodeMeasurement, ...]]]:
        """Bytes, agreement and accuracy of the codes, for each seed and split point."""
        codecs = self.settings.code_codecs
        measurements = [
            [
                measure_codes(
                    self.net, bottleneck, self.test_photos, codecs=codecs, targets=targets
                )
                for bottleneck in of_seed
            ]
            for of_seed in bottlenecks
        ]
        self.report("codes measured")
        return measurements
