"""What the endpoint reads of the store at one revision.

Each part is read once, however many questions are asked.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from ...advice import LiveView, OutcomeRows
from ...profile import Profile
from ...schema import Manifest
from ...traffic import Group, StandingSnapshot, Store
from .cache import Cache

_ROW: Final = 250
_OUTCOME: Final = 60
_SERVED_ROW: Final = 1500
_OBJECT: Final = 1000
"""About the bytes of a tuple of a few numbers, of an outcome in arrays, of a row with five times,
and of anything else."""


class Snapshot:
    """The store at ``version``, through a cache.

    All methods raise what the store's methods of these names raise.
    """

    def __init__(self, store: Store, cache: Cache) -> None:
        # In this order: reading the revision follows a file that took the place of another.
        revision = store.revision()
        self.version: Hashable = (revision, store.opened)
        self._store = store
        self._cache = cache

    def manifest(self, model: str, version: str | None, network_hash: str | None) -> Manifest:
        key = ("manifest", model, version, network_hash)
        return self._cache.get(
            key,
            self.version,
            lambda: self._store.manifest(model, version, network_hash),
            manifest_bytes,
        )

    def profile(self, network_hash: str) -> Profile | None:
        key = ("profile", network_hash)
        return self._cache.get(
            key, self.version, lambda: self._store.profile(network_hash), profile_bytes
        )

    def groups(self, network_hash: str) -> tuple[Group, ...]:
        key = ("groups", network_hash)
        return self._cache.get(
            key,
            self.version,
            lambda: self._store.groups(network_hash),
            lambda rows: 200 * len(rows),
        )

    def view(self, network_hash: str, group: str) -> LiveView:
        return self._cache.get(
            ("view", network_hash, group),
            self.version,
            lambda: self._store.view(network_hash, group),
            view_bytes,
        )

    def standing(self, manifest: Manifest, group: str) -> StandingSnapshot:
        key = ("standing", manifest.model, manifest.version, manifest.network_hash, group)
        return self._cache.get(
            key,
            self.version,
            lambda: self._read_standing(manifest, group),
            # The view counts again: it stays in memory when its own entry goes first.
            lambda snapshot: view_bytes(snapshot.live),
        )

    def _read_standing(self, manifest: Manifest, group: str) -> StandingSnapshot:
        snapshot = self._store.standing_snapshot(manifest, group)
        key = ("view", manifest.network_hash, group)
        self._cache.put(key, self.version, snapshot.live, view_bytes(snapshot.live))
        return snapshot


def view_bytes(view: LiveView) -> int:
    """About the memory that a view takes: its arrays, and a size for each row object."""
    arrays = sum(
        array.nbytes
        for rows in view.importance
        for array in (rows.count, rows.weight, rows.weight2, rows.sum1, rows.sum2, rows.devices)
        if array is not None
    )
    counts = view.class_counts
    arrays += counts.class_ids.nbytes + counts.weight.nbytes + counts.count.nbytes
    outcome = _OUTCOME if isinstance(view.outcomes, OutcomeRows) else _ROW
    return arrays + outcome * len(view.outcomes) + _SERVED_ROW * len(view.served) + _OBJECT


def profile_bytes(profile: Profile | None) -> int:
    """As :func:`view_bytes`, for a profile."""
    if profile is None:
        return _OBJECT
    arrays = [profile.class_ids, profile.count, profile.mean0, profile.sum1, profile.sum2]
    arrays += [array for m in profile.measurements for array in (m.images, m.agreeing)]
    rows = len(profile.classes) + 10 * len(profile.split_points) + 10 * len(profile.measurements)
    return sum(array.nbytes for array in arrays) + profile.comoment.nbytes + _ROW * rows


def manifest_bytes(manifest: Manifest) -> int:
    """As :func:`view_bytes`, for a manifest."""
    return _ROW * (len(manifest.classes) + 10 * len(manifest.split_points)) + _OBJECT
