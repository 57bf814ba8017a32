"""The advised probe rates. A thread reads them from the store, so that no request has to wait."""

from __future__ import annotations

import logging
import threading
from typing import Final

from ..errors import IsplitError
from ..serving.replies import one_line
from ..traffic import Store
from .rate_rule import rate, relative_errors

REFRESH_S: Final = 10.0
_LOGGER = logging.getLogger(__name__)


class ProbeRates:
    """The probe rates of one network, by class.

    They are zero until the store was read for the first time.

    Parameters:
        most: the largest rate; with 0, the store is never read.
        refresh_s: seconds between two reads.
    """

    def __init__(
        self, store_url: str, network_hash: str, most: float, *, refresh_s: float = REFRESH_S
    ) -> None:
        self._url = store_url
        self._network = network_hash
        self._most = most
        self._refresh_s = refresh_s
        self._rates: dict[int, float] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="isplit-probe-rates", daemon=True)
        if most > 0:
            self._thread.start()

    def of(self, class_id: int) -> float:
        """The rate of a class, from memory."""
        rates = self._rates
        return 0.0 if rates is None else rates.get(class_id, self._most)

    def close(self) -> None:
        """Stop reading."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        store: Store | None = None
        revision, told = -1, ""
        while True:
            try:
                store = store or Store(self._url, create=False)
                now = store.revision(self._network)
                if now != revision:
                    ids, error = relative_errors(
                        store.view(self._network), store.mean0(self._network)
                    )
                    self._rates = dict(
                        zip(ids.tolist(), rate(error, self._most).tolist(), strict=True)
                    )
                    revision, told = now, ""
            except Exception as error:  # the store is away, or not made yet: the last rates hold
                text = (
                    error.message
                    if isinstance(error, IsplitError)
                    else f"{type(error).__name__}: {error}"
                )
                if text != told:
                    told = text
                    _LOGGER.info("isplit: probe rates wait for the store: %s", one_line(text))
                if store is not None:
                    store.close()
                store = None
            if self._ended.wait(self._refresh_s):
                break
        if store is not None:
            store.close()
