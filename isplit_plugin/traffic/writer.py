"""Writing the delta of one network to the store, again and again until it succeeds."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final

from ..errors import IsplitError
from ..profile import Profile
from ..schema import Manifest
from .aggregates.delta import Delta
from .store import Store

MAX_BACKOFF_S: Final = 10.0
"""The longest wait between two attempts, in seconds."""
_LOGGER = logging.getLogger(__name__)


class DeltaWriter:
    """The delta of one network and the store it goes to. For one thread.

    A delta is cleared only after its transaction was committed, so nothing is written twice.

    Parameters:
        store_url, network_hash, manifest, profile: see :class:`.recorder.Recorder`.
        half_life_s: the half-life of a store that is created.
        max_keys, by_device, keep_requests: see :class:`.delta.Delta`.
        retry_s: seconds until the second attempt; each wait is twice the one before.

    Attributes:
        delta: ``None`` until the store was opened once, because its shift is not known before.
        last_error: why the last attempt failed; empty after a success.
        flushes, failures: successful and failed attempts.
        moved_deltas: successful ones with times that were moved to the store's clock.
    """

    def __init__(
        self,
        store_url: str | Path,
        network_hash: str,
        *,
        manifest: Manifest | None,
        profile: Profile | bytes | None,
        half_life_s: int,
        max_keys: int,
        by_device: bool,
        keep_requests: bool,
        retry_s: float,
    ) -> None:
        self.delta: Delta | None = None
        self.last_error = ""
        self.flushes = 0
        self.failures = 0
        self.moved_deltas = 0
        self._skew_s = 0.0
        self._url = store_url
        self._network = network_hash
        self._manifest = manifest
        self._profile = profile
        self._half_life_s = half_life_s
        self._max_keys = max_keys
        self._by_device = by_device
        self._keep_requests = keep_requests
        self._retry_s = retry_s
        self._store: Store | None = None
        self._failed_in_a_row = 0
        self._retry_at = 0.0

    def is_due(self) -> bool:
        """Whether the wait after the last failure is over."""
        return time.monotonic() >= self._retry_at

    def open(self) -> None:
        """Open the store, unless it is open, and put the network into it. Raises StoreError."""
        if self._store is not None:
            return
        store = Store(self._url, half_life_s=self._half_life_s)
        try:
            if self._manifest is None:
                self._manifest, self._profile = store.last_entry(self._network)
            else:
                store.put_network(self._manifest, self._profile)
            if self.delta is None:
                self.delta = Delta(
                    store.mean0(self._network),
                    store.half_life_s,
                    len(self._manifest.classes),
                    max_keys=self._max_keys,
                    by_device=self._by_device,
                    keep_requests=self._keep_requests,
                )
        except BaseException:
            store.close()
            raise
        self._store = store

    def write(self) -> None:
        """Write the delta to the open store, and clear it. Raises StoreError.

        A store that has forgotten the version gets it again, with or without requests to write.
        """
        if self._store is None or self.delta is None or self._manifest is None:
            return
        if not self._store.has_version(self._manifest):  # notices a replaced file, too
            self._store.put_network(self._manifest, self._profile)
            _LOGGER.warning(
                "isplit: %s %s was forgotten by the store, but this worker serves it: it is in "
                "the store again, and statistics that were forgotten begin anew",
                self._manifest.model,
                self._manifest.version,
            )
        if len(self.delta):
            written = self._store.add(self._network, self.delta, self._manifest)
            self.delta.clear()
            self.delta.adopt_names(written.names)
            self.flushes += 1
            self._note_skew(written.skew_s)
        self._failed_in_a_row = 0
        self.last_error = ""

    def _note_skew(self, skew_s: float) -> None:
        """Count a delta whose times were moved, and log it when that begins or ends."""
        if skew_s:
            self.moved_deltas += 1
            if not self._skew_s:
                side = "ahead of" if skew_s > 0 else "behind"
                _LOGGER.warning(
                    "the times of the statistics are %.0f s %s the store's clock: they are moved "
                    "by that; check the clock of this host",
                    abs(skew_s),
                    side,
                )
        elif self._skew_s:
            _LOGGER.info("the times of the statistics agree with the store's clock again")
        self._skew_s = skew_s

    def note_failure(self, error: Exception) -> None:
        """Log a failed attempt, and close the store: the next attempt opens it again."""
        wait_s = self._retry_s * 2 ** min(self._failed_in_a_row, 10)
        self._failed_in_a_row += 1
        self._retry_at = time.monotonic() + min(MAX_BACKOFF_S, wait_s)
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, IsplitError):
            text = error.message
        if text != self.last_error:
            _LOGGER.warning("statistics wait: %s", text.replace("\n", " ").replace("\r", " "))
        self.last_error = text
        self.failures += 1
        self.close()

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()
            self._store = None
