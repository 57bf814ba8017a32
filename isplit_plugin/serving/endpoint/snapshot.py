"""What the endpoint reads of the store at one revision.

Each part is read once, however many questions are asked.
"""

from __future__ import annotations

from collections.abc import Hashable

from ...advice import LiveView
from ...profile import Profile
from ...schema import Manifest
from ...traffic import Group, StandingSnapshot, Store
from .cache import Cache


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
            key, self.version, lambda: self._store.manifest(model, version, network_hash)
        )

    def profile(self, network_hash: str) -> Profile | None:
        key = ("profile", network_hash)
        return self._cache.get(key, self.version, lambda: self._store.profile(network_hash))

    def groups(self, network_hash: str) -> tuple[Group, ...]:
        key = ("groups", network_hash)
        return self._cache.get(key, self.version, lambda: self._store.groups(network_hash))

    def view(self, network_hash: str, group: str) -> LiveView:
        return self._cache.get(
            ("view", network_hash, group),
            self.version,
            lambda: self._store.view(network_hash, group),
            _view_bytes,
        )

    def standing(self, manifest: Manifest, group: str) -> StandingSnapshot:
        key = ("standing", manifest.model, manifest.version, manifest.network_hash, group)
        return self._cache.get(key, self.version, lambda: self._read_standing(manifest, group))

    def _read_standing(self, manifest: Manifest, group: str) -> StandingSnapshot:
        snapshot = self._store.standing_snapshot(manifest, group)
        key = ("view", manifest.network_hash, group)
        self._cache.put(key, self.version, snapshot.live, _view_bytes(snapshot.live))
        return snapshot


def _view_bytes(view: LiveView) -> int:
    """About the memory that a view takes: its arrays, and 200 bytes for each row object."""
    arrays = sum(
        array.nbytes
        for rows in view.importance
        for array in (rows.count, rows.weight, rows.weight2, rows.sum1, rows.sum2)
    )
    return arrays + 200 * (len(view.outcomes) + len(view.served) + len(view.class_counts.class_ids))
