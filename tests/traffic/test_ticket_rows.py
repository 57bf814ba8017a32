"""One curve for each ticket, a limit for each device, and nothing stored after an error."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from toys.traffic import CLASSES, NETWORK, POINTS, sample

from isplit_plugin.errors import IsplitError, ProbeBudgetError, ProbeError, StoreError, TicketError
from isplit_plugin.traffic import Store, TicketUse
from isplit_plugin.traffic.rows import tables
from isplit_plugin.traffic.rows import ticket as ticket_rows

NOW = 1_700_000_000.0


def _add(  # noqa: PLR0917
    store: Store,
    probe: str,
    curve: np.ndarray | None = None,
    network: str = NETWORK,
    expires: float | None = None,
    classes: int = CLASSES,
    **changes: Any,
) -> None:
    changes.setdefault("at", NOW)
    ticket = TicketUse(probe, changes["at"] + 600 if expires is None else expires, per_hour=5)
    values = np.full(POINTS, 0.7) if curve is None else curve
    probed = sample(values, **({"class_id": 1, "source": "probe", "device": "d1"} | changes))
    store.add_probe(network, ticket, probed, classes=classes)


def _count(store: Store) -> float:
    return sum(float(rows.count.max()) for rows in store.view(NETWORK).importance)


def _tickets(store: Store) -> int:
    with store._db.read() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(tables.ticket)) or 0)


def test_one_curve_for_each_ticket(store: Store) -> None:
    _add(store, "a", np.array([0.1, 0.2, 0.3, 0.4]))
    with pytest.raises(TicketError, match="used before"):
        _add(store, "a")
    (rows,) = store.view(NETWORK).importance
    assert rows.source == "probe"
    np.testing.assert_allclose(
        0.5 + rows.sum1[0] / rows.weight[0], [0.1, 0.2, 0.3, 0.4], rtol=1e-12
    )


def test_so_many_for_each_device_and_hour(store: Store) -> None:
    for number in range(5):
        _add(store, f"a{number}")
    for late in (0.0, 3599.0):
        with pytest.raises(ProbeBudgetError, match="at most 5"):
            _add(store, "a5", at=NOW + late)
    _add(store, "b0", device="d2")
    _add(store, "a5", at=NOW + 3601)
    for number in range(5):  # whoever has no token is one device
        _add(store, f"u{number}", device=None)
    with pytest.raises(ProbeBudgetError):
        _add(store, "u5", device=None, group="another name")


def test_ids_are_forgotten_when_they_expired_and_no_sooner(store: Store) -> None:
    _add(store, "a", expires=NOW + 7200)
    _add(store, "b", expires=NOW + 60)
    with pytest.raises(TicketError):
        _add(store, "a", at=NOW + 7000)
    _add(store, "c", at=NOW + 7100)
    assert _tickets(store) == 2  # b is gone
    _add(store, "d", at=NOW + 20_000)
    assert _tickets(store) == 1


def test_the_number_of_ids_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticket_rows, "MAX_TICKETS", 3)
    for number in range(3):
        _add(store, f"a{number}")
    with pytest.raises(ProbeBudgetError, match="at most 3"):
        _add(store, "a3", device="d2")
    assert _tickets(store) == 3
    _add(store, "a3", at=NOW + 4000)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"curve": np.full(POINTS - 1, 0.5)}, ProbeError),
        ({"curve": np.array([0.1, np.nan, 0.1, 0.1])}, ProbeError),
        ({"curve": np.full(POINTS, np.inf)}, ProbeError),
        ({"class_id": CLASSES}, ProbeError),
        ({"network": "nobody put it"}, StoreError),
    ],
)
def test_nothing_is_stored_of_what_is_wrong(
    store: Store, changes: dict[str, Any], error: type[IsplitError]
) -> None:
    before = store.revision()
    with pytest.raises(error):
        _add(store, "a", **changes)
    assert (_tickets(store), _count(store), store.revision()) == (0, 0.0, before)
    _add(store, "a")  # the ticket is still good


def test_racing_copies_count_once(store: Store, url: str) -> None:
    def race(_: int) -> str:
        with Store(url, busy_timeout_s=30) as mine:
            try:
                _add(mine, "a")
            except TicketError:
                return "used"
            return "taken"

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(race, range(8)))
    assert sorted(outcomes) == ["taken", *["used"] * 7]
    assert (_tickets(store), _count(store)) == (1, 1.0)
