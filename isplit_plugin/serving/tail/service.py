"""The logic of ``handlers/tail_handler.py``: activations in, class scores out.

Requests of one batch may be cut at different split points, ask for predictions or explanations, and be broken: each is
decoded on its own, those of one split point run together, and one that fails fails alone.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from ...device_tokens import read_secret
from ...errors import ArtifactError, BundleError, ServerBusyError, SplitPointError, WireSizeError
from ...probing.rates import ProbeRates
from ...probing.tail import Probes, advised
from ...profile import Profile
from ...schema import INPUT, FloatArray, Manifest
from ...wire import TailResponse, find_header
from .. import replies as answers
from ..files import MANIFEST, NETWORK, PROFILE, verify_files
from ..packaging.bottlenecks import load_bottlenecks
from ..plausible import ReportLimits
from ..settings import TailSettings
from .metrics import TailMetrics
from .request import TailJob, failure, observations, read_tail_job
from .statistics import Statistics

_LOGGER = logging.getLogger(__name__)
_EXPLAIN_COST: Final = 4
"""Of an explanation against a prediction: a backward pass, and all activations kept for it."""


class TailService:
    """One worker's share of a split model.

    Parameters: ``context`` of TorchServe at load: model folder, GPU, configuration, metrics. Raises BundleError where
    a file of the archive is not the one that was packaged, and what loading a network raises.
    """

    def __init__(self, context: Any) -> None:
        properties = context.system_properties
        folder = Path(properties["model_dir"])
        config = context.model_yaml_config or {}
        self.settings = TailSettings.from_config(config)
        self.manifest = _read_manifest(folder)
        verify_files(folder, self.manifest)
        torch.set_num_threads(self.settings.threads)
        self.device = _device(properties.get("gpu_id"))

        if (
            self.device.type == "cuda"
        ):  # as the profile was measured: TF32 keeps 10 bits of mantissa
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

        from ...network import load as load_network
        from ...network.execution import on_device

        self._net = on_device(load_network(folder / NETWORK), self.device)
        self._bottlenecks = load_bottlenecks(folder, self._net, self.manifest)
        self._tails = self._cut() | dict(self._bottlenecks)
        self._dtypes = {p.name: getattr(torch, p.dtype) for p in self._net.split_points}
        self._dtypes |= dict.fromkeys((INPUT, *self._bottlenecks), self._net.dtype)
        profile = Profile.load(folder / PROFILE)
        if profile.network_hash != self.manifest.network_hash:
            raise BundleError(
                f"{PROFILE} belongs to network {profile.network_hash}, not {self.manifest.network_hash}"
            )
        self._limit, self._batch_limit = self._measure_limits(config)
        self._metrics = TailMetrics(context.metrics, self.manifest.model)
        self._secret = (
            None if self.settings.secret_file is None else read_secret(self.settings.secret_file)
        )
        known = self._secret is not None
        self._statistics = Statistics(
            self.settings, self.manifest, profile, self._net, self.device, identity=known
        )
        self._plausible = ReportLimits(profile)
        self._probes = Probes(
            self.settings.probes,
            self.manifest,
            self._net,
            self._secret,
            threads=self.settings.threads,
        )
        self._rates: ProbeRates | None = None
        if self._probes.on:
            self._rates = ProbeRates(
                self.settings.store, self.manifest.network_hash, self.settings.probes.rate
            )
        self._served: dict[str, int] = defaultdict(int)
        self._errors: dict[str, int] = defaultdict(int)

    # -- one batch

    def handle(self, data: Sequence[Mapping[Any, Any]], context: Any) -> list[str | bytes]:
        """Answer a batch: one body per request, with status and headers set in ``context``. Raises nothing."""
        with self._statistics.busy():
            return self._handle(data, context)

    def _handle(self, data: Sequence[Mapping[Any, Any]], context: Any) -> list[str | bytes]:
        out: list[str | bytes] = [""] * len(data)
        groups: dict[tuple[str, str], list[TailJob]] = defaultdict(list)
        load = 0
        for index, row in enumerate(data):
            try:
                headers = answers.request_headers(context, index)
                if find_header(headers, "describe") == "True":
                    out[index] = answers.json_answer(context, index, self.describe())
                    continue
                job = read_tail_job(
                    index, row, headers, self.manifest, max_batch=self._limit, secret=self._secret
                )
                self._metrics.token(job.sender.status)
                if job.kind == "probe":
                    self._probes.check(job.request.split_point, job.request.batch)
                cost = job.request.batch * (1 if job.kind == "predict" else _EXPLAIN_COST)
                if load and load + cost > self._batch_limit:
                    raise ServerBusyError(
                        "the requests of this moment would take too long together; try again"
                    )
                load += cost
            except Exception as error:
                out[index] = self._failed(context, index, error)
                continue
            try:
                job.decode(self.manifest)
            except Exception as error:
                out[index] = self._failed(context, index, error, job)
            else:
                groups[job.kind, job.request.split_point].append(job)
        for (kind, split_point), jobs in groups.items():
            if kind == "predict":
                self._predict(split_point, jobs, context, out)
                continue
            for job in jobs:
                (self._explain if kind == "explain" else self._probe)(job, context, out)
        self._metrics.dropped(self._statistics.dropped())
        return out

    def describe(self) -> dict[str, Any]:
        """A status from memory alone: what is served, and how much was."""
        return {
            "model": self.manifest.model,
            "version": self.manifest.version,
            "network_hash": self.manifest.network_hash,
            "split_points": [INPUT, *self.manifest.deployed],
            "codecs": list(self.manifest.codecs),
            "default": str(self.manifest.default),
            "device": str(self.device),
            "max_batch": self._limit,
            "served": dict(self._served),
            "errors": dict(self._errors),
            "statistics": self._statistics.counters(),
            "probes": self._probes.describe(),
        }

    def close(self) -> None:
        """Write out what the statistics still hold."""
        if self._rates is not None:
            self._rates.close()
        self._statistics.close()

    # -- predictions

    def _predict(
        self, split_point: str, jobs: list[TailJob], context: Any, out: list[str | bytes]
    ) -> None:
        together = len(jobs) > 1 and sum(len(j.values) for j in jobs) <= self._limit
        if together:
            try:
                scores, tail_ms = self._run(split_point, np.concatenate([j.values for j in jobs]))
            except Exception as error:
                # One of them may be at fault: on their own, the others still get their answers.
                _LOGGER.warning(
                    "isplit: a group of %d failed together: %s", len(jobs), answers.one_line(error)
                )
            else:
                at = 0
                for job in jobs:
                    self._answer(job, scores[at : at + len(job.values)], tail_ms, context, out)
                    at += len(job.values)
                return
        for job in jobs:
            try:
                scores, tail_ms = self._run(split_point, job.values)
            except Exception as error:
                out[job.index] = self._failed(context, job.index, error, job)
            else:
                self._answer(job, scores, tail_ms, context, out)

    def _run(self, split_point: str, values: FloatArray) -> tuple[FloatArray, float]:
        """Class scores (N, C) of decoded values (N, *shape), and the milliseconds they took."""
        started = time.perf_counter()
        with torch.inference_mode():
            scores = self._tails[split_point](self._tensor(split_point, values))
            result: FloatArray = scores.to("cpu", torch.float32).numpy()
        return result, (time.perf_counter() - started) * 1e3

    def _tensor(self, split_point: str, values: FloatArray) -> torch.Tensor:
        # Decoded values may be a read-only or unaligned view of the body, which torch does not take.
        ready = torch.from_numpy(np.require(values, np.float32, ("C", "A", "W")))
        return ready.to(self.device, self._dtypes[split_point])

    def _answer(
        self, job: TailJob, scores: FloatArray, tail_ms: float, context: Any, out: list[str | bytes]
    ) -> None:
        request, manifest = job.request, self.manifest
        try:
            request_id = context.get_request_id(job.index) or ""
            response = TailResponse.from_scores(
                scores,
                manifest.classes,
                k=request.top_k,
                with_scores=request.scores,
                split_point=request.split_point,
                network_hash=manifest.network_hash,
                request_id=request_id,
                decode_ms=job.decode_ms,
                tail_ms=tail_ms,
                model=manifest.model,
                version=manifest.version,
                id=request.id,
                device=job.sender.status,
            )
            if self._rates is not None and self._probes.open_at(request.split_point):
                advice = advised(response.top_class[:, 0], self._rates.of)
                if advice and self._probes.may(job.sender.device):
                    response = replace(response, probe_rate=advice)
            body, json_length = response.encode(request.binary_outputs)
            limit = self.settings.max_response_size
            out[job.index] = answers.tensor_answer(
                context, job.index, body, json_length, limit=limit
            )
        except Exception as error:
            out[job.index] = self._failed(context, job.index, error, job)
            return
        try:
            self._record(job, response, tail_ms)
        except Exception as error:  # the answer stands: nothing that is counted may cost one
            _LOGGER.error("isplit: a request was not counted: %s", answers.one_line(error))

    def _record(self, job: TailJob, response: TailResponse, tail_ms: float) -> None:
        self._served[job.request.split_point] += 1
        self._metrics.served(
            job.request.split_point, job.request.codec, job.nbytes, job.decode_ms, tail_ms
        )
        for item, observation in enumerate(observations(job, response, tail_ms, self._plausible)):
            self._statistics.observe(observation)
            if (
                job.request.split_point not in self._bottlenecks
            ):  # the importance behind a decoder is another network's
                self._statistics.offer(observation, job.values[item : item + 1])

    # -- probes

    def _probe(self, job: TailJob, context: Any, out: list[str | bytes]) -> None:
        """The gradient at the cut and a ticket; nothing of it is counted as a request."""
        try:
            response = self._probes.answer(job, self._tensor(job.request.split_point, job.values))
            body, json_length = response.encode()
            limit = self.settings.max_response_size
            out[job.index] = answers.tensor_answer(
                context, job.index, body, json_length, limit=limit
            )
            self._metrics.probed(job.request.split_point)
        except Exception as error:
            out[job.index] = self._failed(context, job.index, error, job)

    # -- explanations

    def _explain(self, job: TailJob, context: Any, out: list[str | bytes]) -> None:
        """The CUI curve of each item for its predicted class, from the cut onwards."""
        try:
            if job.request.split_point in self._bottlenecks:
                raise SplitPointError(
                    f"{job.request.split_point!r} is a bottleneck: importance is explained from split points of the "
                    "original network"
                )
            limit = max(self._limit // _EXPLAIN_COST, 1)
            if len(job.values) > limit:
                raise WireSizeError(
                    f"explanations of at most {limit} items, got {len(job.values)}", limit=limit
                )
            values = self._tensor(job.request.split_point, job.values)
            if job.request.split_point == INPUT:
                found = self._net.importance(values)
            else:
                found = self._net.importance_from(job.request.split_point, values)
            items = []
            for row, target in zip(np.asarray(found.values), np.asarray(found.target), strict=True):
                curve = [
                    {"split_point": name, "cui": float(value)}
                    for name, value in zip(found.split_points, row, strict=True)
                    if math.isfinite(value)
                ]
                items.append(
                    {"class_id": int(target), "label": self._label(int(target)), "curve": curve}
                )
            body = {
                "model": self.manifest.model,
                "version": self.manifest.version,
                "network_hash": self.manifest.network_hash,
                "split_point": job.request.split_point,
                "codec": job.request.codec,
                "items": items,
            }
            out[job.index] = answers.json_answer(context, job.index, body)
        except Exception as error:
            out[job.index] = self._failed(context, job.index, error, job)

    # -- helpers

    def _failed(
        self, context: Any, index: int, error: BaseException, job: TailJob | None = None
    ) -> str:
        if job is not None and job.kind == "predict":
            self._statistics.observe(failure(job, error))
        body, code = answers.error_answer(context, index, error)
        self._errors[code] += 1
        self._metrics.failed(code)
        return body

    def _label(self, class_id: int) -> str:
        classes = self.manifest.classes
        return classes[class_id] if class_id < len(classes) else str(class_id)

    def _cut(self) -> dict[str, torch.nn.Module]:
        cut = {p.name for p in self._net.split_points} & set(self.manifest.deployed)
        return {INPUT: self._net.model, **{name: self._net.bisect(name)[1] for name in cut}}

    def _measure_limits(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """How many items one request may hold, and all requests of a batch together: TorchServe ends a worker that
        exceeds its response timeout, so one request gets half of it, a batch four fifths. Also the warm-up."""
        example = np.zeros((1, *self.manifest.input_shape), np.float32)
        item_ms = min(self._run(INPUT, example)[1] for _ in range(3))
        timeout_ms = 1e3 * float(config.get("responseTimeout") or 60.0)
        batch = max(1, int(0.8 * timeout_ms / item_ms))
        return max(1, min(self.settings.max_batch, int(0.5 * timeout_ms / item_ms))), batch


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


def _device(gpu_id: object) -> torch.device:
    if gpu_id is not None and torch.cuda.is_available():
        return torch.device(f"cuda:{gpu_id}")
    return torch.device("cpu")
