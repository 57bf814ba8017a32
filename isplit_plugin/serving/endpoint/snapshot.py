"""What the endpoint knows of the store at one revision: each part is read once, however many questions are asked."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ...advice import LiveView
from ...profile import Profile
from ...schema import Manifest
from ...traffic import Store
from ...traffic.store import Group, StandingSnapshot

MAX_VIEWS: Final = 8
"""Views that are kept, for names of groups are free."""


class Snapshot:
    """The store at ``revision``. All methods raise as those of :class:`Store` that they are named after; what was
    read once is not read again, so a ``Snapshot`` must be left when the store's revision is another."""

    def __init__(self, store: Store, revision: tuple[int, int]) -> None:
        self.revision = revision
        self._store = store
        self._manifests: dict[tuple[str, str | None], Manifest] = {}
        self._profiles: dict[str, Profile | None] = {}
        self._groups: dict[str, tuple[Group, ...]] = {}
        self._views: OrderedDict[tuple[str, str], LiveView] = OrderedDict()
        self._held: OrderedDict[tuple[str, str, str], StandingSnapshot] = OrderedDict()

    def manifest(self, model: str, version: str | None) -> Manifest:
        key = (model, version)
        if key not in self._manifests:
            self._manifests[key] = self._store.manifest(model, version)
        return self._manifests[key]

    def profile(self, network_hash: str) -> Profile | None:
        if network_hash not in self._profiles:
            self._profiles[network_hash] = self._store.profile(network_hash)
        return self._profiles[network_hash]

    def groups(self, network_hash: str) -> tuple[Group, ...]:
        if network_hash not in self._groups:
            self._groups[network_hash] = self._store.groups(network_hash)
        return self._groups[network_hash]

    def view(self, network_hash: str, group: str) -> LiveView:
        key = (network_hash, group)
        if key not in self._views:
            self._keep(key, self._store.view(network_hash, group))
        self._views.move_to_end(key)
        return self._views[key]

    def standing(self, manifest: Manifest, group: str) -> StandingSnapshot:
        key = (manifest.model, manifest.version, group)
        if key not in self._held:
            self._held[key] = self._store.standing_snapshot(manifest, group)
            self._keep((manifest.network_hash, group), self._held[key].live)
            if len(self._held) > MAX_VIEWS:
                self._held.popitem(last=False)
        return self._held[key]

    def _keep(self, key: tuple[str, str], view: LiveView) -> None:
        self._views[key] = view
        if len(self._views) > MAX_VIEWS:
            self._views.popitem(last=False)
