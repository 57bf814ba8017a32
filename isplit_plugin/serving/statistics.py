"""What a worker tells the store: its manifest and profile at start, an observation per image, sampled importance.

Nothing in here may fail or delay a prediction: every call swallows errors, logs the first of a kind and goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ..errors import IsplitError
from ..profile import Profile
from ..schema import FloatArray, Manifest, Observation
from .answers import one_line
from .settings import TailSettings

if TYPE_CHECKING:
    import torch

    from ..network import CapturedNetwork

_LOGGER = logging.getLogger(__name__)
_RETRY_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Statistics:
    """Recorder and sampler of one worker, behind a face that never raises.

    The manifest and the profile are written by a thread that tries again until the store takes them: a store that is
    down when a worker starts costs neither the start nor, once it is back, the statistics.
    """

    def __init__(
        self,
        settings: TailSettings,
        manifest: Manifest,
        profile: Profile,
        net: CapturedNetwork,
        device: torch.device,
    ) -> None:
        self._manifest, self._profile, self._settings = manifest, profile, settings
        self._told: set[str] = set()
        self._stop = threading.Event()
        self._recorder: Any = None
        self._sampler: Any = None
        self._guard("recorder", self._start, net, device)
        self._announcer = threading.Thread(target=self._announce, name="isplit-announce", daemon=True)
        self._announcer.start()

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
        self._stop.set()
        for name, part in (("sampler", self._sampler), ("recorder", self._recorder)):
            if part is not None:
                self._guard(name, part.close)
        self._announcer.join(timeout=5.0)

    def _start(self, net: CapturedNetwork, device: torch.device) -> None:
        raise NotImplementedError

    def _announce(self) -> None:
        from ..traffic import Store

        for attempt in range(1_000_000):
            try:
                store = Store(self._settings.store)
                try:
                    store.put_network(self._manifest, self._profile)
                finally:
                    store.close()
                return
            except Exception as error:
                self._say("store", error)
            if self._stop.wait(_RETRY_S[min(attempt, len(_RETRY_S) - 1)]):
                return

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
