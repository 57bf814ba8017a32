"""The whole network on the device: at `output`, and where the server does not answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from ..errors import ServerBusyError, ServerUnavailableError
from ..image import Image
from ..schema import ON_DEVICE, OUTPUT, Prediction, Timings
from ..stopwatch import ms_since
from ..wire import TailResponse
from .answers import predictions
from .cool_down import CoolDown
from .local import LocalNetwork

_LOGGER = logging.getLogger("isplit.client")


class WholeNetwork:
    """Classifies images on the device alone. Several threads may use it.

    Parameters:
        local: the device's heads.
        model: the name that the model is registered by, for the log.
        top_k: classes in an answer.
        raw_scores: whether answers carry the scores of all classes.
    """

    def __init__(self, local: LocalNetwork, model: str, *, top_k: int, raw_scores: bool) -> None:
        self._local = local
        self._model = model
        self._top_k = top_k
        self._raw_scores = raw_scores

    @property
    def is_here(self) -> bool:
        """Whether the bundle holds the whole network."""
        return self._local.has_head(OUTPUT)

    def classify(
        self, images: Sequence[Image], *, fallback: bool = False, lost_ms: float = 0.0
    ) -> list[Prediction]:
        """Run the whole network here. Raises ImageError, BundleError.

        Parameters:
            fallback: whether the server was to answer.
            lost_ms: time spent on a server that did not answer.
        """
        local = self._local.classify(images)
        manifest = self._local.required_manifest()
        answer = TailResponse.from_scores(
            local.scores,
            manifest.classes,
            k=self._top_k,
            with_scores=self._raw_scores,
            split_point=OUTPUT,
            network_hash=manifest.network_hash,
        )
        timings = Timings(prepare_ms=local.prepare_ms, head_ms=local.head_ms, round_trip_ms=lost_ms)
        return predictions(answer, ON_DEVICE, timings, fallback=fallback, round_trips=0)

    def replace_server(
        self,
        images: Sequence[Image],
        ask_server: Callable[[], list[Prediction]],
        cool_down: CoolDown,
    ) -> list[Prediction]:
        """Ask the server unless it is known not to answer, and run everything here if it does not.

        Raises what ``ask_server`` raises, but for a server that is away or busy.
        """
        asked = cool_down.ask()
        if asked is None:
            return self.classify(images, fallback=True)
        started = time.perf_counter()
        try:
            answer = ask_server()
        except (ServerUnavailableError, ServerBusyError) as error:
            _LOGGER.warning("%s: local fallback (%s)", self._model, error.code)
            cool_down.failed(asked)
            return self.classify(images, fallback=True, lost_ms=ms_since(started))
        except BaseException:
            cool_down.undecided(asked)
            raise
        cool_down.succeeded(asked)
        return answer
