"""The statistics of one worker: it records an observation of each image, and samples importance.

Nothing here may fail or delay a prediction. Recorder and sampler never raise and never wait, and a
tail without them serves just the same.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import IsplitError
from ...profile import Profile
from ...schema import INPUT, Cut, FloatArray, Manifest, Observation
from ..plausible import curve_limits
from ..replies import one_line
from ..settings import TailSettings, make_store_folder

if TYPE_CHECKING:
    import torch

    from ...network import CapturedNetwork
    from ...traffic import ExitRecorder, ImportanceFn, LabelReader, Recorder, Sampler

_LOGGER = logging.getLogger(__name__)


class Statistics:
    """Recorder and sampler of one worker. Never raises.

    The recorder's thread opens the store, puts manifest and profile into it, and tries again until
    that succeeds. So a store that is down neither stops a worker's start nor, once it is back, the
    statistics.

    Parameters:
        settings: of the tail; without ``statistics`` nothing is recorded.
        manifest, profile: of the network.
        net, device: the network that computes importance, and where.
        by_device: devices have tokens, and each counts once (``traffic.devices``).
    """

    def __init__(
        self,
        settings: TailSettings,
        manifest: Manifest,
        profile: Profile,
        net: CapturedNetwork,
        device: torch.device,
        *,
        by_device: bool = False,
    ) -> None:
        self._recorder: Recorder | None = None
        self._sampler: Sampler | None = None
        self._labels: LabelReader | None = None
        self._exits: ExitRecorder | None = None
        self._manifest = manifest
        if not settings.statistics:
            return
        try:
            self._start_recorder(settings, manifest, profile, by_device=by_device)
            if settings.sampling > 0:
                # Devices make up their activations: no value may count for more than is plausible.
                limits = curve_limits(profile) if by_device else np.inf
                self._start_sampler(settings, _importance_fn(net, device, limits))
            if settings.exits.enabled:
                self._start_exits(settings, by_device=by_device)
        except Exception as error:  # such as an impossible setting, or a missing library
            text = f"{type(error).__name__}: {error}"
            if isinstance(error, IsplitError):
                text = error.message
            _LOGGER.error("isplit: no statistics: %s", one_line(text))

    def observe(self, observation: Observation) -> None:
        """Record an observation."""
        if self._recorder is not None:
            self._recorder.observe(observation)

    def offer(self, observation: Observation, activation: FloatArray) -> None:
        """Offer an observation and its decoded activation (1, ...) to the sampler."""
        if self._sampler is not None:
            self._sampler.offer(observation, activation)

    def offer_exit(
        self, observation: Observation, activation: FloatArray, statement: str | None = None
    ) -> None:
        """Offer an answered image and its decoded activation (1, ...) to the exits.

        ``statement``: what the device says of its exit, as it was sent.
        """
        cut, class_id = observation.cut, observation.class_id
        if self._exits is None or cut.split_point == INPUT or class_id is None:
            return
        self._exits.offer(
            cut,
            activation[0],
            self._manifest.split_point(cut.split_point).channel_axis,
            class_id,
            at=observation.at,
            device=observation.device,
            statement=statement,
        )

    def exit_release(self, cut: Cut) -> str:
        """The release of a cut's exit that is in force; empty where it is not known."""
        if self._exits is None or cut.split_point == INPUT:
            return ""
        return self._exits.release(cut)

    def busy(self) -> AbstractContextManager[None]:
        """Around the handling of a batch: the sampler computes only while nothing is handled."""
        return self._sampler.busy() if self._sampler is not None else nullcontext()

    def counters(self) -> dict[str, float]:
        """The counters of recorder and sampler, from memory."""
        counters: dict[str, float] = {}
        if self._recorder is not None:
            counters |= self._recorder.counters()
        if self._sampler is not None:
            sampler = self._sampler.counters()
            counters |= {f"sampler_{name}": value for name, value in sampler.items()}
        if self._exits is not None:
            exits = self._exits.counters()
            counters |= {f"exits_{name}": value for name, value in exits.items()}
        return counters

    def dropped(self) -> int:
        """Observations dropped so far."""
        return self._recorder.counters()["dropped"] if self._recorder is not None else 0

    def close(self) -> None:
        """Stop the threads, and write what was recorded."""
        for part in (self._sampler, self._labels, self._exits, self._recorder):
            if part is not None:
                part.close()

    def _start_recorder(
        self, settings: TailSettings, manifest: Manifest, profile: Profile, *, by_device: bool
    ) -> None:
        from ...traffic import Recorder

        make_store_folder(settings.store)
        self._recorder = Recorder(
            settings.store,
            manifest.network_hash,
            manifest=manifest,
            profile=profile,
            by_device=by_device,
            keep_requests=settings.label_secret_file is not None,
        )
        # A worker that is ready has made its model known to the endpoint. A store that is down
        # delays the start by this timeout at most.
        self._recorder.flush(timeout_s=10.0)

    def _start_sampler(self, settings: TailSettings, importance_fn: ImportanceFn) -> None:
        from ...traffic import LabelReader, Sampler

        if self._recorder is None:
            return
        if settings.label_secret_file is not None:
            self._labels = LabelReader(settings.store)
        self._sampler = Sampler(
            importance_fn,
            self._recorder,
            settings.sampling,
            settings.cpu_budget,
            threads=settings.threads,
            label_of=None if self._labels is None else self._labels.label_of,
        )

    def _start_exits(self, settings: TailSettings, *, by_device: bool) -> None:
        from ...traffic import ExitRecorder

        self._exits = ExitRecorder(
            settings.store,
            self._manifest.network_hash,
            sampling=settings.exits.sampling,
            flush_s=settings.exits.flush_s,
            by_device=by_device,
        )


def _importance_fn(
    net: CapturedNetwork, device: torch.device, limits: npt.ArrayLike
) -> ImportanceFn:
    """The importance at each point, at most ``limits`` (P,) or a number."""
    import torch

    def importance(split_point: str, activation: FloatArray, class_id: int) -> npt.ArrayLike:
        dtype = net.dtype
        if split_point != INPUT:
            dtype = getattr(torch, net.split_point(split_point).dtype)
        values = torch.from_numpy(activation).to(device, dtype)
        curve = net.importance_from(split_point, values, class_id).values
        limited: npt.NDArray[np.floating[Any]] = np.minimum(curve, limits)  # NaN stays NaN
        return limited

    return importance
