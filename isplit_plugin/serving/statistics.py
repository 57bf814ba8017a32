"""What a worker tells the store: its manifest and profile at start, an observation per image, sampled importance.

Nothing in here may fail or delay a prediction: every call swallows errors, logs the first of a kind and goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import IsplitError
from ..profile import Profile
from ..schema import FloatArray, Manifest, Observation
from .answers import one_line
from .settings import TailSettings

if TYPE_CHECKING:
    import torch

    from ..network import CapturedNetwork

_LOGGER = logging.getLogger(__name__)


class Statistics:
    """Recorder and sampler of one worker, behind a face that never raises.

    The recorder's thread opens the store, puts manifest and profile into it, and tries again until that succeeds: a
    store that is down when a worker starts costs neither the start nor, once it is back, the statistics.
    """

    def __init__(
        self,
        settings: TailSettings,
        manifest: Manifest,
        profile: Profile,
        net: CapturedNetwork,
        device: torch.device,
    ) -> None:
        self._told: set[str] = set()
        self._recorder: Any = None
        self._sampler: Any = None
        self._guard("recorder", self._start, settings, manifest, profile)
        if self._recorder is not None and settings.sampling > 0:
            self._guard("sampler", self._start_sampler, settings, net, device)

    def observe(self, observation: Observation) -> None:
        """Hand an observation to the recorder."""
        if self._recorder is not None:
            self._guard("recorder", self._recorder.observe, observation)

    def offer(self, request_id: str, split_point: str, activation: FloatArray, class_id: int) -> None:
        """Offer a decoded activation (1, *shape) to the sampler, which takes a share of them."""
        if self._sampler is not None:
            self._guard("sampler", self._sampler.offer, request_id, split_point, activation, class_id)

    def counters(self) -> dict[str, int]:
        """The recorder's counters; empty where it does not run."""
        found = self._guard("recorder", self._recorder.counters) if self._recorder is not None else None
        return {str(k): int(v) for k, v in dict(found or {}).items()}

    def dropped(self) -> int:
        """Observations dropped so far."""
        return self.counters().get("dropped", 0)

    def close(self) -> None:
        """Write out what is held, and stop the threads."""
        for name, part in (("sampler", self._sampler), ("recorder", self._recorder)):
            if part is not None:
                self._guard(name, part.close)

    def _start(self, settings: TailSettings, manifest: Manifest, profile: Profile) -> None:
        from ..traffic import Recorder

        self._recorder = Recorder(settings.store, manifest.network_hash, manifest=manifest, profile=profile)
        self._recorder.flush(timeout_s=0.0)  # starts its thread: the endpoint is to know the model before any traffic

    def _start_sampler(self, settings: TailSettings, net: CapturedNetwork, device: torch.device) -> None:
        pass

    def _guard(self, what: str, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:
            self._say(what, error)
            return None

    def _say(self, what: str, error: Exception) -> None:
        """Log an error, the first of its kind only: a store that is down would fill the disk otherwise."""
        text = error.message if isinstance(error, IsplitError) else str(error)
        kind = f"{what} {type(error).__name__}"
        if kind not in self._told:
            self._told.add(kind)
            _LOGGER.warning("isplit: statistics (%s) fail, predictions go on: %s", kind, one_line(text))
