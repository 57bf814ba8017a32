"""Exits in the store, from traffic to a release and its end, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from toys.exits import CUT, ExitTraffic
from toys.traffic import NETWORK

from isplit_plugin.traffic import ExitState, Store


@pytest.fixture
def traffic(store: Store, url: str, tmp_path: Path) -> Iterator[ExitTraffic]:
    made = ExitTraffic.make(store, url, tmp_path)
    yield made
    made.recorder.close()


def test_no_exit_without_enough_photos_of_two_classes(traffic: ExitTraffic) -> None:
    traffic.send(np.zeros(200, int))
    traffic.look()
    assert traffic.version() is None
    assert traffic.store.exits.classes(NETWORK, CUT)[0].photos == 200


def test_a_new_version_releases_nothing_and_shadow_answers_release_it(
    traffic: ExitTraffic,
) -> None:
    classes = np.tile(np.arange(4), 60)
    traffic.send(classes)
    traffic.look()
    assert traffic.release().classes == {}
    assert traffic.recorder.release(CUT) == "none"
    traffic.send(classes)
    assert traffic.recorder.release(CUT) == traffic.release().name
    traffic.look()
    traffic.send(classes)
    traffic.look()
    release = traffic.release()
    assert set(release.classes) == {0, 1, 2, 3}
    assert release.number > 1
    traffic.send([0])
    assert traffic.recorder.release(CUT) == release.name


def test_a_drift_that_audits_show_withdraws_the_exit(traffic: ExitTraffic) -> None:
    traffic.prove()
    version = traffic.version()
    assert version is not None
    assert traffic.release().classes
    for _ in range(10):
        if traffic.version() is None:
            break
        traffic.send(np.tile(np.arange(4), 20), answer=4, audit=True)
        traffic.look()
    ended = next(v for v in traffic.store.exits.versions(NETWORK) if v.exit == version.exit)
    assert ended.ended == "withdrawn"
    assert all(c.withdrawn for c in ExitState.from_json(ended.state).classes.values() if c.bin)
