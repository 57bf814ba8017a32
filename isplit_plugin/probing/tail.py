"""The tail's side of split-gradient probes: the gradient at the cut and a signed ticket, within two budgets.

A probe leaves nothing here but what it costs: no row, no observation. What it may cost is bounded for each device (the
gradient is an oracle about the tail's weights) and in CPU time (a backward pass costs about as much as two forward).
Each worker keeps its own budgets in memory; how many curves a device may add is counted in the store.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from ..errors import ProbeBudgetError, ProbeError
from ..schema import Manifest
from ..serving.tail.request import TailJob
from ..token_bucket import TokenBucket
from .messages import ProbeResponse
from .points import why_no_probe
from .settings import ProbeSettings
from .tickets import Ticket

if TYPE_CHECKING:
    from ..network import CapturedNetwork

_LOGGER = logging.getLogger(__name__)

WINDOW_S: Final = 60.0
MAX_DEVICES: Final = 10_000
_HOUR_S: Final = 3600.0


class Probes:
    """Answers probes of one worker.

    Parameters:
        settings: whether probes are answered, and their budgets.
        manifest: of the model that the worker serves.
        net: the network behind it.
        secret: the operator's; without one no probe is answered.
        threads: threads that torch computes with; the measured CPU time of one thread is multiplied
            by this number.
        clock: seconds, monotonic.
        cpu_clock: CPU seconds of the calling thread.
    """

    def __init__(
        self,
        settings: ProbeSettings,
        manifest: Manifest,
        net: CapturedNetwork,
        secret: bytes | None,
        *,
        threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._settings = settings
        self._manifest = manifest
        self._net = net
        self._secret = secret
        self._threads = threads
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._cpu = TokenBucket(settings.cpu_budget, settings.cpu_budget * WINDOW_S, clock)
        self._devices: OrderedDict[str | None, TokenBucket] = OrderedDict()
        self._closed: dict[str, str | None] = {}
        self.answered = self.refused = 0
        if settings.enabled and secret is None:
            _LOGGER.warning(
                "isplit: probes are on, but there is no secret (ISPLIT_SECRET_FILE): they are refused"
            )

    @property
    def on(self) -> bool:
        """Whether this worker answers probes at all."""
        return self._settings.enabled and self._secret is not None

    def open_at(self, split_point: str) -> bool:
        """Whether probes are answered at this cut."""
        return self.why_not(split_point) is None

    def why_not(self, split_point: str) -> str | None:
        """Why no probe is answered at this cut, in words; ``None`` where they are."""
        if not self._settings.enabled:
            return (
                "probes are off for this model: the operator turns them on with "
                "isplit.probes.enabled in model-config.yaml"
            )
        if self._secret is None:
            return (
                "probes need the operator's secret (ISPLIT_SECRET_FILE), and this server has none"
            )
        if split_point not in self._closed:
            self._closed[split_point] = why_no_probe(self._net, split_point)
        return self._closed[split_point]

    def may(self, device: str | None) -> bool:
        """Whether the budgets would let this device probe now."""
        return self._cpu.level() > 0 and self._of(device).level() >= 1.0

    def answer(self, job: TailJob, values: torch.Tensor) -> ProbeResponse:
        """The answer to one probe; ``values`` (1, *shape): the decoded activation.

        Raises ProbeError (off, no secret, no sense at this cut, several items), ProbeBudgetError, and what importance
        raises.
        """
        try:
            return self._answer(job, values)
        except Exception:
            self.refused += 1
            raise

    def describe(self) -> dict[str, Any]:
        """From memory alone: whether and where probes are answered, and how many were."""
        points = [name for name in self._manifest.deployed if self.open_at(name)] if self.on else []
        return {
            "on": self.on,
            "split_points": points,
            "answered": self.answered,
            "refused": self.refused,
        }

    def _answer(self, job: TailJob, values: torch.Tensor) -> ProbeResponse:
        request, sender = job.request, job.sender
        self.check(request.split_point, len(values))
        assert self._secret is not None  # noqa: S101  check() raised otherwise
        self._spend(sender.device)
        started, before = time.perf_counter(), self._cpu_clock()
        try:
            found, gradient = self._net.gradient_from(request.split_point, values)
            curve = np.asarray(found.values[0], np.float64)
            tail = curve[~np.isnan(curve)]
            if not np.isfinite(tail).all():
                raise ProbeError(
                    "the importance of this activation is not finite: its values are out of range"
                )
            class_id = int(found.target[0])
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

    def check(self, split_point: str, items: int) -> None:
        """Raises ProbeError where a probe of so many items at this cut is not answered, whatever the budgets say."""
        why = self.why_not(split_point)
        if why is not None:
            raise ProbeError(why, split_point=split_point)
        if items != 1:
            raise ProbeError(f"expected a probe of one item, got {items}")

    def _spend(self, device: str | None) -> None:
        budget = self._of(device)
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

    def _of(self, device: str | None) -> TokenBucket:
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


def advised(classes: Iterable[int], rate_of: Callable[[int], float]) -> float:
    """The rate for a request: that of its least known class."""
    return max((rate_of(int(c)) for c in classes), default=0.0)
