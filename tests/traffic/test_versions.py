"""Several versions of one model: which one is meant, and when each last answered."""

from __future__ import annotations

import numpy as np
import pytest
from toys.traffic import CLASSES, NETWORK, manifest, observation, profile

from isplit_plugin.advice import PickChange, StandingState
from isplit_plugin.errors import NetworkMismatchError, UnknownModelError, UnknownVersionError
from isplit_plugin.schema import Cut, Manifest, version_key
from isplit_plugin.traffic import Delta, Store

SECOND = "sha256-second"
AT = 1e9
HOUR = 3600.0


def second(version: str = "2.0") -> Manifest:
    return manifest(SECOND, version=version)


def answer(store: Store, of: Manifest, number: int = 1, at: float = AT) -> None:
    """Requests that a worker of this version answered."""
    delta = Delta(store.mean0(of.network_hash), store.half_life_s, CLASSES)
    for i in range(number):
        delta.add_observation(observation(i, at=at))
    store.add(of.network_hash, delta, of)


@pytest.fixture
def both(store: Store) -> Store:
    """A store in which 2.0 was put beside 1.0."""
    store.put_network(second(), profile(network=SECOND))
    return store


def test_a_version_that_is_put_beside_another_changes_nothing(both: Store) -> None:
    assert both.manifest("toy").version == "1.0"
    answer(both, manifest())
    assert both.manifest("toy") == manifest()
    both.put_network(manifest(SECOND, version="3.0"), None)
    assert both.manifest("toy").version == "1.0"


def test_the_current_version_answered_most_of_the_recent_requests(both: Store) -> None:
    answer(both, manifest(), 100, AT)
    answer(both, second(), 10, AT + 60)
    assert both.manifest("toy").version == "1.0"
    answer(both, second(), 100, AT + 120)
    assert both.manifest("toy").version == "2.0"
    # rolled back: the requests of 2.0 weigh half after an hour
    answer(both, manifest(), 60, AT + HOUR)
    assert both.manifest("toy").version == "1.0"


def test_the_order_of_flushes_decides_nothing(both: Store) -> None:
    answer(both, second(), 30, AT + HOUR)
    answer(both, manifest(), 50, AT)  # late: it weighs half by now
    assert both.manifest("toy").version == "2.0"
    answer(both, manifest(), 11, AT)
    assert both.manifest("toy").version == "1.0"
    assert [row.as_of for row in both.networks()] == [AT, AT + HOUR]


def test_a_version_is_found_by_its_network(both: Store) -> None:
    answer(both, second(), 100)
    assert both.manifest("toy", network_hash=NETWORK).version == "1.0"
    assert both.manifest("toy", network_hash=SECOND).version == "2.0"
    assert both.manifest("toy", "1.0", NETWORK) == manifest()


def test_one_network_may_have_several_versions(store: Store) -> None:
    smaller = manifest(version="1.1", deployed=("layer2",))
    store.put_network(smaller, profile())
    assert store.manifest("toy", network_hash=NETWORK).version == "1.0"
    assert store.manifest("toy", "1.1", NETWORK) == smaller
    answer(store, smaller)
    assert store.manifest("toy", network_hash=NETWORK).version == "1.1"
    assert [row.as_of for row in store.networks()] == [None, AT]


def test_one_version_may_have_several_networks(store: Store) -> None:
    """As where an archive was replaced without a new number, on one of two servers."""
    replaced = manifest(SECOND)
    answer(store, manifest(), 100)
    store.put_network(replaced, profile(network=SECOND))
    assert store.manifest("toy") == store.manifest("toy", "1.0") == replaced
    assert store.manifest("toy", network_hash=NETWORK) == manifest()
    assert store.has_version(manifest())
    assert store.has_version(replaced)
    # its requests count for the version
    store.put_network(manifest("sha256-third", version="2.0"), None)
    answer(store, manifest("sha256-third", version="2.0"), 50)
    assert store.manifest("toy") == replaced


def test_the_list_says_which_version_is_current(both: Store) -> None:
    both.put_network(second("10.0"), None)
    answer(both, second(), 3)
    rows = both.networks()
    assert [(row.version, row.current) for row in rows] == [
        ("1.0", False),
        ("2.0", True),
        ("10.0", False),
    ]
    assert [row.has_profile for row in rows] == [True, True, True]
    assert [row.as_of for row in rows] == [None, AT, None]
    both.put_network(manifest("sha256-other", model="other"), None)
    assert next((row.model, row.current) for row in both.networks()) == ("other", True)


def test_a_version_that_is_not_there_names_those_that_are(both: Store) -> None:
    with pytest.raises(UnknownModelError, match="unknown model 'cat'; known: toy"):
        both.manifest("cat")
    with pytest.raises(
        UnknownVersionError, match=r"'3\.0' of model 'toy'; known: 1\.0, 2\.0"
    ) as caught:
        both.manifest("toy", "3.0", NETWORK)
    assert caught.value.details == {"known": ["1.0", "2.0"]}
    networks = rf"known: 1\.0 \(network {NETWORK}\), 2\.0 \(network {SECOND}\)"
    with pytest.raises(UnknownVersionError, match=f"'toy' in the store has network x; {networks}"):
        both.manifest("toy", network_hash="x")
    with pytest.raises(NetworkMismatchError, match=f"2.0 of 'toy' to have network {NETWORK}"):
        both.manifest("toy", "2.0", NETWORK)


def test_standing_picks_belong_to_a_version_and_its_network(both: Store) -> None:
    manifests = (manifest(), second(), second("1.0"))
    both.put_network(manifests[2], None)
    for number, of in enumerate(manifests):
        assert both.standing_snapshot(of, "all").state is None
        state = StandingState(Cut("layer1", "uint8"), AT + number, "hash", 1)
        change = PickChange(1, "start", AT + number, None, "layer1:uint8", "", 1)
        assert both.put_standing(of, "all", None, state, [change])
    for number, of in enumerate(manifests):
        state = both.standing_snapshot(of, "all").state or pytest.fail("no state")
        assert state.origin == AT + number
        assert [change.at for change in both.changes(of, "all")] == [AT + number]


def test_versions_are_ordered_as_people_count() -> None:
    ordered = ["1", "1.0", "1.9", "1.10", "2.0", "2.0-rc1", "10.0", "a"]
    shuffled = [ordered[i] for i in np.random.default_rng(0).permutation(len(ordered))]
    assert sorted(shuffled, key=version_key) == ordered


def test_putting_a_version_again_keeps_its_requests(both: Store) -> None:
    answer(both, second(), 5)
    both.put_network(manifest(SECOND, version="2.0", deployed=("layer2",)), None)
    assert both.manifest("toy").version == "2.0"
    assert len(both.manifest("toy").deployed) == 1
