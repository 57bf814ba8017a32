"""The logic of ``handlers/tail_handler.py``: activations in, class scores out.

The requests of one batch may have different cuts, ask for predictions or explanations, and be
broken. Each is decoded on its own. Those at one split point run together. One that fails fails
alone.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...device_tokens import TokenVerifier
from ...errors import ArtifactError, BundleError, ProbeError, ServerBusyError
from ...profile import Profile
from ...schema import INPUT, FloatArray, Manifest
from ...stopwatch import ms_since
from ...wire import TailResponse
from .. import replies
from ..files import MANIFEST, PROFILE, verify_files
from ..optional import TailContext, TailPart, tail_parts
from ..packaging import deployed_correctors, deployed_transforms
from ..plausible import ReportLimits
from ..settings import TailSettings
from ..threads import use_one_blas_thread
from . import explain
from .metrics import TailMetrics
from .refining import Refiner
from .request import TailJob, failure, observations, read_tail_job
from .runner import TailRunner, device_of, timeout_of
from .statistics import Statistics

_LOGGER = logging.getLogger(__name__)


@dataclass(slots=True)
class _Batch:
    """One batch of TorchServe: the jobs by split point, and an answer for each row.

    ``arrived_s``: when the worker got it, by ``time.perf_counter``. TorchServe tells a worker nothing
    of what was before.
    """

    context: Any
    answers: list[str | bytes]
    predictions: dict[str, list[TailJob]] = field(default_factory=lambda: defaultdict(list))
    others: list[tuple[TailJob, TailPart | None]] = field(default_factory=list)
    """Jobs that a part answers; explanations where the part is ``None``."""
    items: int = 0
    arrived_s: float = field(default_factory=time.perf_counter)

    def queue_ms(self, job: TailJob, tail_ms: float) -> float:
        """How long a job has waited in the worker: all that was not its own work."""
        return max(0.0, ms_since(self.arrived_s) - job.decode_ms - tail_ms)


class TailService:
    """One worker's share of a split model.

    Parameters:
        context: TorchServe's, at load: model folder, GPU, configuration and metrics.

    Raises:
        BundleError: a file of the archive is not the one that was packaged.
        ArtifactError, NetworkMismatchError: a transform or corrector cannot be used.
        ServingError: the configuration has an unknown key or a value that cannot be used.
        SecretError: the operator's secret, or the list of revoked ids, cannot be used.
    """

    def __init__(self, context: Any) -> None:
        properties = context.system_properties
        config = context.model_yaml_config or {}
        folder = Path(properties["model_dir"])
        self.settings = settings = TailSettings.from_config(config, model=context.model_name)
        self.manifest = manifest = _read_manifest(folder)
        verify_files(folder, manifest)
        torch.set_num_threads(settings.threads)
        use_one_blas_thread()
        self._runner = TailRunner(
            folder,
            manifest,
            device_of(properties.get("gpu_id")),
            max_batch=settings.max_batch,
            timeout_s=timeout_of(config),
        )
        self._transforms = deployed_transforms(folder, manifest)
        self._correctors = deployed_correctors(
            folder, manifest, self._transforms, self._runner.device
        )
        self._refiner = Refiner(manifest, settings.refinement.audit)
        profile = Profile.load(folder / PROFILE)
        if profile.network_hash != manifest.network_hash:
            raise BundleError(
                f"{PROFILE}: expected the profile of network {manifest.network_hash}, "
                f"got that of {profile.network_hash}"
            )
        secret_file = settings.secret_file
        self._verifier = None if secret_file is None else TokenVerifier.from_file(secret_file)
        self._metrics = TailMetrics(context.metrics, manifest.model, manifest.version)
        self._limits = ReportLimits(profile)
        self._statistics = Statistics(
            settings,
            manifest,
            profile,
            self._runner.net,
            self._runner.device,
            by_device=self._verifier is not None,
        )
        secret = None if self._verifier is None else self._verifier.secret
        self._parts = tail_parts(TailContext(settings, manifest, self._runner.net, secret))
        self._served: dict[str, int] = defaultdict(int)
        self._errors: dict[str, int] = defaultdict(int)

    def handle(self, data: Sequence[Mapping[Any, Any]], context: Any) -> list[str | bytes]:
        """Answer a batch: one body for each request, status and headers in ``context``.

        Raises nothing.
        """
        with self._statistics.busy():
            batch = _Batch(context, [""] * len(data))
            for index, row in enumerate(data):
                self._read(batch, index, row)
            for split_point, jobs in batch.predictions.items():
                self._predict(batch, split_point, jobs)
            for job, part in batch.others:
                self._answer_other(batch, job, part)
            self._metrics.dropped(self._statistics.dropped())
            return batch.answers

    def describe(self) -> dict[str, Any]:
        """A status from memory alone: what is served, and how much was."""
        return {
            "model": self.manifest.model,
            "version": self.manifest.version,
            "network_hash": self.manifest.network_hash,
            "split_points": [INPUT, *self.manifest.deployed],
            "codecs": list(self.manifest.codecs),
            "photos": list(self.manifest.photos),
            "default": str(self.manifest.default),
            "correctors": list(self._correctors),
            "device": str(self._runner.device),
            "max_batch": self._runner.max_items,
            "served": dict(self._served),
            "errors": dict(self._errors),
            "statistics": self._statistics.counters(),
            **{part.name: part.describe() for part in self._parts},
        }

    def close(self) -> None:
        """Stop the parts, and write what the statistics still hold."""
        for part in self._parts:
            part.close()
        self._statistics.close()
        self._metrics.close()

    def _read(self, batch: _Batch, index: int, row: Mapping[Any, Any]) -> None:
        """Read, check and decode one row, and put it where it is answered."""
        job: TailJob | None = None
        try:
            headers = replies.request_headers(batch.context, index)
            if replies.is_describe(row, headers):
                answer = replies.json_answer(batch.context, index, self.describe())
                batch.answers[index] = answer
                return
            checked = self._check(batch, index, row, headers)
            job = checked  # from here on, a failure counts in the statistics
            job.decode(self.manifest, self._transforms, self._correctors)
            part = self._part_for(job)
            if job.explain or part is not None:
                batch.others.append((job, part))
            else:
                batch.predictions[job.request.split_point].append(job)
        except Exception as error:
            batch.answers[index] = self._failed(batch, index, error, job)

    def _check(
        self, batch: _Batch, index: int, row: Mapping[Any, Any], headers: Mapping[str, str]
    ) -> TailJob:
        """A job that fits, with nothing large decoded yet.

        Raises what :func:`read_tail_job` and parts raise.
        """
        job = read_tail_job(
            index,
            row,
            headers,
            self.manifest,
            max_batch=self._runner.max_items,
            verifier=self._verifier,
        )
        self._metrics.token(job.sender.status)
        self._refiner.check(job.request)
        part = self._part_for(job)
        if part is not None:
            part.check(job.request)
        elif job.request.probe and not job.explain:
            raise ProbeError(
                "probes are off for this model: the operator turns them on with the setting "
                "probes.enabled"
            )
        plain = part is None and not job.explain
        items = job.request.batch * (1 if plain else explain.COST)
        if batch.items and batch.items + items > self._runner.max_batch_items:
            raise ServerBusyError(
                "the requests of this moment would take too long together; try again"
            )
        batch.items += items
        return job

    def _part_for(self, job: TailJob) -> TailPart | None:
        if job.explain:
            return None
        return next((part for part in self._parts if part.takes(job.request)), None)

    def _predict(self, batch: _Batch, split_point: str, jobs: list[TailJob]) -> None:
        """Run the jobs of one split point together, or each alone where that fails."""
        items = sum(len(job.values) for job in jobs)
        if len(jobs) > 1 and items <= self._runner.max_items:
            try:
                values = np.concatenate([job.values for job in jobs])
                scores, tail_ms = self._runner.run(split_point, values)
            except Exception as error:
                # One of them may be at fault: alone, the others still get their answers.
                _LOGGER.warning(
                    "isplit: a group of %d failed together: %s", len(jobs), replies.one_line(error)
                )
            else:
                ends = np.cumsum([len(job.values) for job in jobs])
                for job, part in zip(jobs, np.split(scores, ends[:-1]), strict=True):
                    self._answer(batch, job, part, tail_ms)
                return
        for job in jobs:
            try:
                scores, tail_ms = self._runner.run(split_point, job.values)
            except Exception as error:
                batch.answers[job.index] = self._failed(batch, job.index, error, job)
            else:
                self._answer(batch, job, scores, tail_ms)

    def _answer(self, batch: _Batch, job: TailJob, scores: FloatArray, tail_ms: float) -> None:
        try:
            response = self._response(batch, job, scores, tail_ms)
            body, json_length = response.encode(job.request.binary_outputs)
            self._reply(batch, job, body, json_length)
        except Exception as error:
            batch.answers[job.index] = self._failed(batch, job.index, error, job)
            return
        try:
            self._record(job, response, tail_ms)
        except Exception as error:  # the answer stands: no statistic may cost one
            _LOGGER.error("isplit: a request was not counted: %s", replies.one_line(error))

    def _response(
        self, batch: _Batch, job: TailJob, scores: FloatArray, tail_ms: float
    ) -> TailResponse:
        request, manifest = job.request, self.manifest
        again = self._refiner.again(request, scores)
        response = TailResponse.from_scores(
            scores,
            manifest.classes,
            k=request.top_k,
            with_scores=request.scores,
            split_point=request.split_point,
            network_hash=manifest.network_hash,
            request_id=batch.context.get_request_id(job.index) or "",
            decode_ms=job.decode_ms,
            tail_ms=tail_ms,
            queue_ms=batch.queue_ms(job, tail_ms),
            model=manifest.model,
            version=manifest.version,
            id=request.id,
            device=job.sender.status,
            refine=again.refine,
            audit=again.audit,
        )
        for part in self._parts:
            response = part.amend(job, response)
        return replace(response, release=self._statistics.exit_release(request.cut))

    def _record(self, job: TailJob, response: TailResponse, tail_ms: float) -> None:
        split_point = job.request.split_point
        self._served[split_point] += 1
        self._metrics.served(
            split_point, job.request.cut.coding, job.nbytes, job.decode_ms, tail_ms
        )
        self._metrics.refined(split_point, len(response.refine))
        audited = self._refiner.audited(job.request, response)
        self._metrics.audited(split_point, audited.items, audited.differing)
        # An item that is sent again is counted when it comes.
        items = [n for n in range(len(job.values)) if n not in response.refine]
        counted = observations(job, response, tail_ms, self._limits, items)
        for item, observation in zip(items, counted, strict=True):
            self._statistics.observe(observation)
            if not job.request.cut.is_refining:  # an exit knows one coding
                statement = job.request.exit_answer if len(job.values) == 1 else None
                self._statistics.offer_exit(observation, job.values[item : item + 1], statement)
            # The importance behind a decoder is another network's.
            if split_point not in self._runner.bottlenecks:
                self._statistics.offer(observation, job.values[item : item + 1])

    def _answer_other(self, batch: _Batch, job: TailJob, part: TailPart | None) -> None:
        """Answer an explanation, or what a part takes. Neither is counted as a request."""
        try:
            if part is None:
                body = explain.explain(job, self._runner, self.manifest)
                batch.answers[job.index] = replies.json_answer(batch.context, job.index, body)
                return
            values = self._runner.tensor(job.request.split_point, job.values)
            self._reply(batch, job, *part.answer(job, values))
            self._metrics.count(part.metric, job.request.split_point)
        except Exception as error:
            batch.answers[job.index] = self._failed(batch, job.index, error)

    def _reply(self, batch: _Batch, job: TailJob, body: bytes, json_length: int | None) -> None:
        limit = self.settings.max_response_size
        answer = replies.tensor_answer(batch.context, job.index, body, json_length, limit=limit)
        batch.answers[job.index] = answer

    def _failed(
        self, batch: _Batch, index: int, error: BaseException, job: TailJob | None = None
    ) -> str:
        """The error's answer. ``job``: counted as a failed request where it asked for a prediction."""
        if job is not None and not job.explain and self._part_for(job) is None:
            self._statistics.observe(failure(job, error))
        body, code = replies.error_answer(batch.context, index, error)
        self._errors[code] += 1
        self._metrics.failed(code)
        return body


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        return Manifest.from_json(json.loads(path.read_text("utf-8")), where=MANIFEST)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{MANIFEST} cannot be read from the archive: {error}", file=MANIFEST
        ) from error
    except ArtifactError as error:
        raise BundleError(error.message, file=MANIFEST) from error
