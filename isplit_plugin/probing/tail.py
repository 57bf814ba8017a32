"""The tail's side of probes: the gradient at the cut and a signed ticket, within two budgets.

A probe leaves no observation here. Its number is bounded for each device, because gradients reveal
the tail's weights, and its CPU time is bounded, because a backward pass costs about as much as two
forward passes. Each worker keeps its own budgets in memory. The curves that a device adds are
counted in the store.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from ..errors import ProbeBudgetError, ProbeError
from ..token_bucket import TokenBucket
from .messages import ProbeResponse
from .points import why_no_probe
from .rates import ProbeRates
from .tickets import Ticket

if TYPE_CHECKING:
    from ..serving.optional import TailContext
    from ..serving.settings import ProbeSettings
    from ..serving.tail import TailJob
    from ..wire import TailRequest, TailResponse

_LOGGER = logging.getLogger(__name__)

WINDOW_S: Final = 60.0
MAX_DEVICES: Final = 10_000
_HOUR_S: Final = 3600.0


class Probes:
    """Answers the probes of one tail worker: a :class:`~isplit_plugin.serving.optional.TailPart`.

    Parameters:
        context: settings, manifest, network and secret of the worker.
        clock: seconds, monotonic.
        cpu_clock: CPU seconds of the calling thread.
    """

    name = "probes"
    metric = "isplit_probes_total"

    def __init__(
        self,
        context: TailContext,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._settings: ProbeSettings = context.settings.probes
        self._manifest = context.manifest
        self._net = context.net
        self._secret = context.secret
        # The CPU time of one thread is measured, and torch computes with several.
        self._threads = context.settings.threads
        self._clock = clock
        self._cpu_clock = cpu_clock
        budget = self._settings.cpu_budget
        self._cpu = TokenBucket(budget, budget * WINDOW_S, clock)
        self._devices: OrderedDict[str | None, TokenBucket] = OrderedDict()
        self._reasons: dict[str, str | None] = {}
        self._rates = ProbeRates(
            context.settings.store, self._manifest.network_hash, self._settings.rate
        )
        self.answered = 0
        self.refused = 0
        if self._secret is None:
            _LOGGER.warning(
                "isplit: probes are on, but there is no secret (ISPLIT_SECRET_FILE): "
                "they are refused"
            )

    def takes(self, request: TailRequest) -> bool:
        """Whether the request is a probe."""
        return request.probe

    def check(self, request: TailRequest) -> None:
        """Refuse a probe that is never answered, whatever the budgets say. Raises ProbeError."""
        reason = self.why_not(request.split_point)
        if reason is not None:
            raise ProbeError(reason, split_point=request.split_point)
        if request.batch != 1:
            raise ProbeError(f"expected a probe of one item, got {request.batch}")

    def answer(self, job: TailJob, values: torch.Tensor) -> tuple[bytes, int | None]:
        """Answer one probe.

        Parameters:
            values: the decoded activation, shape (1, *shape).

        Raises:
            ProbeError: the importance is not finite.
            ProbeBudgetError: the device or the server has no budget left.
        """
        try:
            return self._answer(job, values).encode()
        except Exception:
            self.refused += 1
            raise

    def amend(self, job: TailJob, response: TailResponse) -> TailResponse:
        """Add the advised probe rate to the answer to a prediction."""
        if self.why_not(job.request.split_point) is not None or not self.may(job.sender.device):
            return response
        # The class that is known the least decides.
        rates = [self._rates.of(int(class_id)) for class_id in response.top_class[:, 0]]
        return replace(response, probe_rate=max(rates, default=0.0))

    def describe(self) -> dict[str, Any]:
        """Where probes are answered, and how many were, from memory alone."""
        points = [name for name in self._manifest.deployed if self.why_not(name) is None]
        return {
            "on": self._secret is not None,
            "split_points": points,
            "answered": self.answered,
            "refused": self.refused,
        }

    def close(self) -> None:
        """Stop reading the rates."""
        self._rates.close()

    def why_not(self, split_point: str) -> str | None:
        """Why no probe is answered at this split point, in words; ``None`` where they are."""
        if self._secret is None:
            return (
                "probes need the operator's secret (ISPLIT_SECRET_FILE), and this server has none"
            )
        if split_point not in self._reasons:
            self._reasons[split_point] = why_no_probe(self._net, split_point)
        return self._reasons[split_point]

    def may(self, device: str | None) -> bool:
        """Whether the budgets would let this device probe now."""
        return self._cpu.level() > 0 and self._budget(device).level() >= 1.0

    def _answer(self, job: TailJob, values: torch.Tensor) -> ProbeResponse:
        request, sender = job.request, job.sender
        assert self._secret is not None  # noqa: S101  check() refuses without one
        self._spend(sender.device)
        started, before = time.perf_counter(), self._cpu_clock()
        try:
            importance, gradient = self._net.gradient_from(request.split_point, values)
            curve = np.asarray(importance.values[0], np.float64)
            tail = curve[~np.isnan(curve)]
            if not np.isfinite(tail).all():
                raise ProbeError(
                    "the importance of this activation is not finite: its values are out of range"
                )
            class_id = int(importance.target[0])
            ticket = Ticket.new(
                network_hash=self._manifest.network_hash,
                cut=request.cut,
                class_id=class_id,
                group=sender.group or request.group,
                device=sender.device,
                tail=tail,
            )
            response = ProbeResponse(
                gradient=gradient.to("cpu", torch.float32).numpy(),
                class_id=class_id,
                ticket=ticket.seal(self._secret),
                split_point=request.split_point,
                network_hash=self._manifest.network_hash,
                tail_ms=(time.perf_counter() - started) * 1e3,
                codec=request.gradient,
                device=sender.status,
                model=self._manifest.model,
                version=self._manifest.version,
                id=request.id,
            )
        finally:
            self._cpu.take((self._cpu_clock() - before) * self._threads)
        self.answered += 1
        return response

    def _spend(self, device: str | None) -> None:
        budget = self._budget(device)
        per_hour = self._settings.per_hour
        if budget.level() < 1.0:
            wait = min(budget.seconds_until(1.0), _HOUR_S)
            whose = "this device" if device is not None else "all devices without a token"
            raise ProbeBudgetError(
                f"expected at most {per_hour} probes an hour of {whose}",
                per_hour=per_hour,
                retry_after_s=round(wait),
            )
        if self._cpu.level() <= 0:
            raise ProbeBudgetError(
                "the server has spent the CPU time it has for probes; try again later"
            )
        budget.take(1.0)

    def _budget(self, device: str | None) -> TokenBucket:
        """The budget of a device. Of more than ``MAX_DEVICES`` the least recent are forgotten."""
        budget = self._devices.get(device)
        if budget is None:
            per_hour = self._settings.per_hour
            budget = TokenBucket(per_hour / _HOUR_S, per_hour, self._clock)
            self._devices[device] = budget
            if len(self._devices) > MAX_DEVICES:
                self._devices.popitem(last=False)
        self._devices.move_to_end(device)
        return budget
