"""What a worker tells the store: its manifest and profile at start, an observation per image, sampled importance.

Nothing in here may fail or delay a prediction: recorder and sampler never raise and never block, and a tail serves
without them where they cannot be made.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import IsplitError
from ...profile import Profile
from ...schema import INPUT, FloatArray, Manifest, Observation
from ..plausible import curve_limits
from ..replies import one_line
from ..settings import TailSettings, make_store_folder

if TYPE_CHECKING:
    import torch

    from ...network import CapturedNetwork
    from ...traffic import Recorder, Sampler

_LOGGER = logging.getLogger(__name__)


class Statistics:
    """Recorder and sampler of one worker, behind a face that never raises.

    The recorder's thread opens the store, puts manifest and profile into it, and tries again until that succeeds: a
    store that is down when a worker starts costs neither the start nor, once it is back, the statistics. ``identity``:
    devices are known by their tokens, and each counts once.
    """

    def __init__(
        self,
        settings: TailSettings,
        manifest: Manifest,
        profile: Profile,
        net: CapturedNetwork,
        device: torch.device,
        *,
        identity: bool = False,
    ) -> None:
        self._recorder: Recorder | None = None
        self._identity = identity
        self._sampler: Sampler | None = None
        if not settings.statistics:
            return
        try:
            self._start(settings, manifest, profile, net, device)
        except (
            Exception
        ) as error:  # a setting the store room refuses, a missing library: the tail serves without
            text = (
                error.message
                if isinstance(error, IsplitError)
                else f"{type(error).__name__}: {error}"
            )
            _LOGGER.error("isplit: no statistics: %s", one_line(text))

    def observe(self, observation: Observation) -> None:
        """Hand an observation to the recorder."""
        if self._recorder is not None:
            self._recorder.observe(observation)

    def offer(self, observation: Observation, activation: FloatArray) -> None:
        """Offer the decoded activation (1, *shape) of an observation to the sampler, which takes a share of them."""
        if self._sampler is not None and observation.class_id is not None:
            self._sampler.offer(
                observation.request_id,
                observation.cut.split_point,
                activation,
                observation.class_id,
                group=observation.group,
                at=observation.at,
                device=observation.device,
            )

    def busy(self) -> AbstractContextManager[None]:
        """Around the handling of a batch: the sampler computes only while nothing is handled."""
        return self._sampler.busy() if self._sampler is not None else nullcontext()

    def counters(self) -> dict[str, float]:
        """The counters of recorder and sampler, from memory."""
        found: dict[str, float] = (
            dict(self._recorder.counters()) if self._recorder is not None else {}
        )
        if self._sampler is not None:
            found |= {f"sampler_{name}": value for name, value in self._sampler.counters().items()}
        return found

    def dropped(self) -> int:
        """Observations dropped so far."""
        return self._recorder.counters()["dropped"] if self._recorder is not None else 0

    def close(self) -> None:
        """Write out what is held, and stop the threads."""
        for part in (self._sampler, self._recorder):
            if part is not None:
                part.close()

    def _start(
        self,
        settings: TailSettings,
        manifest: Manifest,
        profile: Profile,
        net: CapturedNetwork,
        device: torch.device,
    ) -> None:
        import torch

        from ...traffic import Recorder, Sampler

        # Where devices count once, a value that an activation was made up for counts as the largest plausible one.
        limits = curve_limits(profile) if self._identity else np.inf

        def importance(split_point: str, activation: FloatArray, class_id: int) -> npt.ArrayLike:
            dtype = (
                net.dtype
                if split_point == INPUT
                else getattr(torch, net.split_point(split_point).dtype)
            )
            values = torch.from_numpy(activation).to(device, dtype)
            found = net.importance_from(split_point, values, class_id).values
            curve: npt.NDArray[np.floating[Any]] = np.minimum(found, limits)  # NaN stays NaN
            return curve

        make_store_folder(settings.store)
        self._recorder = Recorder(
            settings.store,
            manifest.network_hash,
            manifest=manifest,
            profile=profile,
            identity=self._identity,
            labels=settings.label_secret_file is not None,
        )
        # Ready is to mean that the endpoint knows the model; a store that is down delays a start by this at most.
        self._recorder.flush(timeout_s=10.0)
        if settings.sampling > 0:
            share, budget, threads = settings.sampling, settings.cpu_budget, settings.threads
            self._sampler = Sampler(importance, self._recorder, share, budget, threads=threads)
