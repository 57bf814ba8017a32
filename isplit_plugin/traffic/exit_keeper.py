"""The exit keeper: makes exits from the sums of a store, releases their classes, and ends them.

It runs in the endpoint's worker, which holds the key. Several hosts may run one each: a version is
inserted only where its cut has none that is alive, and changed only from the state that was read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ..errors import ExitError, IsplitError, StoreError
from ..exits import Exit as FittedExit
from ..exits import ExitRelease, ExitSums, Promise, fit_exit, sign, unsigned, version_alpha
from ..schema import Cut
from .exit_state import ExitClass, ExitState
from .exits import ExitEvidence, ExitStore
from .lifecycle import BackgroundWorker
from .rows.exit_sums import ClassEvidence
from .rows.exits import SUPERSEDED, WITHDRAWN, ExitVersion
from .store import Store

_LOGGER = logging.getLogger(__name__)
_GROWTH: Final = 1.25
"""By which factor the photos of a cut grow before its next version is made."""
_STUCK: Final = 4.0
"""By which factor they grow before a version goes for one with more classes."""
_MORE: Final = 1.0
"""How many more classes, by those it has, a version with released classes goes for."""
_PATIENCE: Final = 4.0
"""How many times ``min_photos`` the largest class has when others are not waited for any more."""
_RENEW: Final = 0.5
"""A release is renewed after this share of its lifetime."""


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """When exits are made and released.

    Attributes:
        min_photos: of a class, effective, before an exit names it.
        min_devices: behind a class before an exit names it; 0 where devices are not known.
        tolerance: the share of an exit's answers that may disagree with the full network's.
        alpha: the risk that answers are ever released that are above it.
        promise: whose answers keep the tolerance.
        lifetime_s: of a version.
        contact_s: of a release: after so many seconds without contact a device stops exiting.
    """

    min_photos: int = 100
    min_devices: int = 20
    tolerance: float = 0.01
    alpha: float = 0.05
    promise: Promise = "together"
    lifetime_s: float = 14 * 86_400.0
    contact_s: float = 86_400.0

    def has_devices(self, behind: ClassEvidence | None) -> bool:
        """Whether enough devices are behind a class."""
        if self.min_devices == 0:
            return True
        return behind is not None and behind.devices >= self.min_devices

    def is_ready(self, behind: ClassEvidence) -> bool:
        """Whether an exit may name a class: enough photos, from enough devices."""
        return behind.photos >= self.min_photos and self.has_devices(behind)


class ExitKeeper(BackgroundWorker):
    """Looks at the exits of a store again and again, in a thread.

    Parameters:
        store_url: as of :class:`.store.Store`.
        private_key: 32 bytes, with which exits and releases are signed.
        check_s: seconds between two looks.
    """

    def __init__(
        self,
        store_url: str | Path,
        private_key: bytes,
        policy: ExitPolicy,
        *,
        check_s: float = 10.0,
    ) -> None:
        self._url = store_url
        self._key = private_key
        self._policy = policy
        self._check_s = check_s
        super().__init__("isplit-exit-keeper")

    def start(self) -> None:
        """Start the thread."""
        self._start_thread()

    def _reset(self) -> None:
        super()._reset()
        self._last_error = ""

    def _run(self) -> None:
        closing = False
        while not closing:
            try:
                with Store(self._url) as store:
                    self._keep(store)
            except Exception as error:  # whatever it is, the next look tries again
                self._note_failure(error)
            with self._condition:
                closing = self._condition.wait_for(lambda: self._closed, self._check_s)

    def _keep(self, store: Store) -> None:
        closing = False
        while not closing:
            look(store.exits, self._key, self._policy)
            self._last_error = ""
            with self._condition:
                closing = self._condition.wait_for(lambda: self._closed, self._check_s)

    def _note_failure(self, error: Exception) -> None:
        text = error.message if isinstance(error, IsplitError) else f"{type(error).__name__}"
        if text != self._last_error:
            _LOGGER.warning("isplit: exits are not looked after: %s", " ".join(text.split()))
        self._last_error = text


def look(
    exits: ExitStore,
    private_key: bytes,
    policy: ExitPolicy,
    *,
    clock: Callable[[], float] | None = None,
) -> None:
    """Look at all exits once: release, withdraw and renew, then make what can be made.

    One that is damaged keeps no other from being withdrawn: its error is raised when all others
    were looked at.

    Parameters:
        clock: epoch seconds; by default the store's.

    Raises StoreError, ExitError for a damaged release, and SecretError for a key that is none.
    """
    now = exits.now() if clock is None else clock()
    errors: list[IsplitError] = []
    for version in exits.versions():
        if version.is_alive(now):
            with _kept(errors):
                prove(exits, version, private_key, policy, now)
    versions = exits.versions()
    for (network, cut), photos in exits.photos().items():
        own = [v for v in versions if (v.network, v.cut) == (network, cut)]
        if not any(v.is_alive(now) for v in own) and _has_grown(own, photos, policy):
            with _kept(errors):
                make_version(exits, network, cut, own, photos, private_key, policy, now)
    exits.delete_old()
    if errors:
        raise errors[0]


def prove(
    exits: ExitStore, version: ExitVersion, private_key: bytes, policy: ExitPolicy, now: float
) -> bool:
    """Bring one version up to its counts; whether anything changed.

    One that was proven for more than the present tolerance ends, and one that keeps it together
    where each class is to keep it.

    Raises StoreError, and SecretError for a key that is none.
    """
    before = ExitState.from_json(version.state)
    state = before.after(
        exits.counts(version.network, version.exit),
        alpha=version_alpha(before.version, policy.alpha),
        now=now,
    )
    after = replace(version, state=state.to_json())
    if state.is_withdrawn:
        after = replace(after, ended=WITHDRAWN)
        _LOGGER.warning("isplit: the exit %.16s at %s is withdrawn", version.exit, version.cut)
    elif _promises_less(state, policy) or _is_outgrown(exits, version, state, policy):
        after = replace(after, ended=SUPERSEDED)
    after = _with_release(after, state, private_key, policy, now)
    return after != version and exits.replace(version, after)


def make_version(  # noqa: PLR0917
    exits: ExitStore,
    network: str,
    cut: Cut,
    earlier: list[ExitVersion],
    photos: int,
    private_key: bytes,
    policy: ExitPolicy,
    now: float,
) -> bool:
    """Make and put a version of the exit of a cut; ``False`` where there is too little evidence."""
    evidence = exits.evidence(network, cut)
    if evidence is None or _others_are_close(evidence, policy):
        return False
    number = _next_number(earlier)
    try:
        fitted = fit_exit(
            public_sums(evidence, policy),
            min_weight=policy.min_photos,
            created=now,
            lifetime_s=policy.lifetime_s,
        )
    except ExitError as error:
        _LOGGER.info("isplit: no exit yet: %s", error.message)
        return False
    classes = {class_id: ExitClass() for class_id in fitted.classes}
    state = ExitState(number, policy.tolerance, classes, promise=policy.promise)
    version = ExitVersion(
        network, fitted.version, cut, now, fitted.expires, photos, state=state.to_json()
    )
    version = _with_release(version, state, private_key, policy, now)
    return exits.put(version, sign(fitted.to_bytes(), private_key))


def public_sums(evidence: ExitEvidence, policy: ExitPolicy) -> ExitSums:
    """The sums without the classes of which nothing may be published.

    Classes with too few devices go. Those with too few photos become "none of these" together, if
    together they have enough.
    """
    sums = evidence.sums
    few = [c for c in sums.class_ids.tolist() if not policy.has_devices(evidence.classes.get(c))]
    sums = sums.without(few)
    others = sums.effective < policy.min_photos
    if sums.counts[others].sum() < policy.min_photos:
        sums = sums.without(sums.class_ids[others])
    return sums


def read_version(content: bytes) -> FittedExit:
    """The exit in a stored content. Raises ExitError."""
    return FittedExit.from_bytes(unsigned(content))


@contextmanager
def _kept(errors: list[IsplitError]) -> Iterator[None]:
    """Keep the error of one exit for later."""
    try:
        yield
    except (StoreError, ExitError) as error:
        errors.append(error)


def _next_number(earlier: list[ExitVersion]) -> int:
    """The number of the next version of a cut. It says how much of alpha is spent.

    A damaged version is known by its row alone, and counts as one more.
    """
    newest, damaged = 0, 0
    for version in earlier:
        try:
            newest = max(newest, ExitState.from_json(version.state).version)
        except StoreError:
            damaged += 1
    return 1 + newest + damaged


def _has_grown(earlier: list[ExitVersion], photos: int, policy: ExitPolicy) -> bool:
    """Whether there are enough photos for another version. ``earlier``: the newest first."""
    last = earlier[0].photos if earlier else 0
    if photos < last:
        last = 0  # its sums were stale and have begun anew
    return photos >= max(_GROWTH * last, last + policy.min_photos)


def _others_are_close(evidence: ExitEvidence, policy: ExitPolicy) -> bool:
    """Whether classes will soon have enough photos: a version never gets more classes."""
    effective = evidence.sums.effective
    close = (effective >= policy.min_photos / 2) & (effective < policy.min_photos)
    return bool(close.any() and effective.max() < _PATIENCE * policy.min_photos)


def _promises_less(state: ExitState, policy: ExitPolicy) -> bool:
    """Whether a version was proven for less than is to be promised now."""
    weaker = state.promise == "together" and policy.promise == "each"
    return weaker or state.tolerance > policy.tolerance


def _is_outgrown(
    exits: ExitStore, version: ExitVersion, state: ExitState, policy: ExitPolicy
) -> bool:
    """Whether a new version would be worth a new proof."""
    photos = exits.photos().get((version.network, version.cut), 0)
    if photos < _GROWTH * version.photos:
        return False
    classes = exits.classes(version.network, version.cut)
    ready = {c for c, behind in classes.items() if policy.is_ready(behind)}
    more = len(ready - set(state.classes))
    if state.was_released:
        return photos >= _STUCK * version.photos and more >= _MORE * len(state.classes)
    return more > 0 or photos >= _STUCK * version.photos


def _with_release(
    version: ExitVersion, state: ExitState, private_key: bytes, policy: ExitPolicy, now: float
) -> ExitVersion:
    """The version with a new release, if what devices may do changed or the last one gets old."""
    classes = {} if version.ended else state.released()
    if version.release:
        last = ExitRelease.from_bytes(unsigned(version.release))
        lifetime = last.expires - last.issued
        is_fresh = now < last.issued + _RENEW * lifetime or last.expires >= version.expires
        # One of a host whose clock was ahead is taken by no device before its time has come.
        if is_fresh and not last.is_ahead(now) and last.classes == classes:
            return version
    release = ExitRelease(
        network_hash=version.network,
        cut=version.cut,
        version=version.exit,
        number=version.number + 1,
        issued=now,
        expires=min(now + policy.contact_s, version.expires),
        tolerance=state.tolerance,
        classes=classes,
    )
    signed = sign(release.to_bytes(), private_key)
    return replace(version, number=release.number, release=signed)
