"""Reports that are not what they say: a typed error that names what was expected, and nothing
stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isplit_plugin.device_tokens import RevokedDevices, TokenVerifier, hashed, issue, revoke, seal
from isplit_plugin.errors import IsplitError, ProbeBudgetError, ProbeError, TicketError, WireError
from isplit_plugin.probing.endpoint import take_report
from isplit_plugin.probing.messages import ProbeReport
from isplit_plugin.probing.tickets import TICKET_S, Ticket
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Cut
from isplit_plugin.serving.packaging import Built
from isplit_plugin.serving.plausible import ReportLimits, curve_limits
from isplit_plugin.traffic import Store

SECRET = b"the operator's secret, 32 bytes."
VERIFIER = TokenVerifier(SECRET)
NOW = 1_700_000_000.0


def clock() -> float:
    return NOW


@pytest.fixture
def store(built: Built, profile: Profile, tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.db") as opened:
        opened.put_network(built.manifest, profile)
        yield opened


@pytest.fixture
def ticket(built: Built, profile: Profile) -> Ticket:
    """Of relu1, the second of six points."""
    return Ticket.new(
        network_hash=built.manifest.network_hash,
        cut=Cut("relu1", "fp32"),
        class_id=2,
        group="all",
        device=hashed(SECRET, "cam"),
        tail=np.maximum(profile.mean0[1:], 0.0),
        clock=clock,
    )


@pytest.fixture
def token() -> str:
    return issue(SECRET, "cam", days=1, clock=clock)


def _report(ticket: Ticket, token: str | None, /, **changes: Any) -> dict[str, Any]:
    told = ProbeReport(
        ticket=ticket.seal(SECRET),
        values=(1e-4,),
        network_hash=ticket.network_hash,
        class_id=ticket.class_id,
        device_token=token,
    )
    raw: dict[str, Any] = json.loads(told.encode())["probe"]
    return {**raw, **changes}


def _rows(store: Store, network: str) -> int:
    return sum(int(r.count.max()) for r in store.view(network).importance)


def test_what_is_right_is_taken_once(
    store: Store, ticket: Ticket, token: str, profile: Profile
) -> None:
    answer = take_report(store, VERIFIER, _report(ticket, token), clock=clock)
    assert answer == {
        "accepted": True,
        "network_hash": ticket.network_hash,
        "class_id": 2,
        "points": 6,
    }
    (rows,) = store.view(ticket.network_hash).importance
    assert (rows.source, rows.target, rows.class_ids.tolist()) == ("probe", "predicted", [2])
    np.testing.assert_allclose(
        profile.mean0 + rows.sum1[0] / rows.weight[0], [1e-4, *ticket.tail], rtol=1e-12
    )
    with pytest.raises(TicketError, match="used before") as caught:
        take_report(store, VERIFIER, _report(ticket, token), clock=clock)
    assert caught.value.details["reason"] == "replayed"
    assert _rows(store, ticket.network_hash) == 1


def test_a_ticket_without_a_device_needs_no_token(store: Store, ticket: Ticket, token: str) -> None:
    unsigned = replace(ticket, device=None, probe="0" * 32)
    take_report(store, VERIFIER, _report(unsigned, None), clock=clock)
    take_report(store, VERIFIER, _report(replace(unsigned, probe="1" * 32), token), clock=clock)


def test_a_report_goes_to_the_network_of_its_ticket(
    store: Store, ticket: Ticket, built: Built, profile: Profile
) -> None:
    """Whichever version was put last, and until the store forgets it."""
    second = replace(built.manifest, version="2.0", network_hash="f" * 64)
    store.put_network(second, replace(profile, network_hash="f" * 64))
    unsigned = replace(ticket, device=None)
    for number, network in enumerate((built.manifest.network_hash, "f" * 64)):
        of_network = replace(unsigned, probe=str(number) * 32, network_hash=network)
        take_report(store, VERIFIER, _report(of_network, None), clock=clock)
        assert [_rows(store, n) for n in (ticket.network_hash, "f" * 64)] == [1, number]
    store.forget("toy", version="1.0")
    late = _report(replace(unsigned, probe="2" * 32), None)
    error = _refused(store, ticket, late)
    assert isinstance(error, TicketError)
    assert error.details["reason"] == "network"
    assert "f" * 64 in error.message
    assert _rows(store, "f" * 64) == 1


def _refused(
    store: Store, ticket: Ticket, raw: object, secret: bytes = SECRET, now: float = NOW
) -> IsplitError:
    before = _rows(store, ticket.network_hash), store.revision()
    with pytest.raises(IsplitError) as caught:
        take_report(store, TokenVerifier(secret), raw, clock=lambda: now)
    assert (_rows(store, ticket.network_hash), store.revision()) == before
    return caught.value


def test_forged(store: Store, ticket: Ticket, token: str) -> None:
    good = ticket.seal(SECRET)
    body, signature = good.split(".")
    mine = seal(b"another secret of 32 bytes......", "isplit probe ticket", [1])
    # The payload of another class under the old signature; another use's signature; a token in a
    # ticket's place.
    other = replace(ticket, class_id=3).seal(b"x" * 32).split(".")[0]
    for bad in (
        f"{other}.{signature}",
        mine,
        f"{body}.",
        token.partition(".")[2],
        good[:-2] + ("AA", "BB")[good[-2:] == "AA"],
    ):
        error = _refused(store, ticket, _report(ticket, token, ticket=bad))
        assert isinstance(error, TicketError)
        assert error.details["reason"] == "forged"
    for bad in ("", "x", body, "é.é"):
        error = _refused(store, ticket, _report(ticket, token, ticket=bad))
        assert error.details["reason"] == "malformed"
    # Signed by us, but not in this format.
    error = _refused(
        store, ticket, _report(ticket, token, ticket=seal(SECRET, "isplit probe ticket", [2, "x"]))
    )
    assert error.details["reason"] == "malformed"


def test_the_token_of_a_revoked_device(store: Store, ticket: Ticket, tmp_path: Path) -> None:
    revoke(tmp_path / "list", ["cam"], clock=clock)
    verifier = TokenVerifier(SECRET, RevokedDevices(tmp_path / "list"))
    token = issue(SECRET, "cam", days=1, clock=clock)
    with pytest.raises(TicketError, match="revoked") as caught:
        take_report(store, verifier, _report(ticket, token), clock=clock)
    assert caught.value.details["reason"] == "device"


def test_a_server_with_another_secret(store: Store, ticket: Ticket, token: str) -> None:
    error = _refused(store, ticket, _report(ticket, token), secret=b"y" * 32)
    assert error.details["reason"] == "forged"


def test_expired(store: Store, ticket: Ticket, token: str) -> None:
    error = _refused(store, ticket, _report(ticket, token), now=NOW + TICKET_S)
    assert error.details["reason"] == "expired"
    take_report(store, VERIFIER, _report(ticket, token), clock=lambda: NOW + TICKET_S - 1)


@pytest.mark.parametrize(("field", "value"), [("network", "f" * 64), ("class", 3), ("class", -1)])
def test_of_another_network_or_class(
    store: Store, ticket: Ticket, token: str, field: str, value: object
) -> None:
    error = _refused(store, ticket, _report(ticket, token, **{field: value}))
    assert isinstance(error, TicketError)
    assert error.details["reason"] == field
    assert str(value) in error.message


def test_of_another_device(store: Store, ticket: Ticket, token: str) -> None:
    others = [
        None,
        issue(SECRET, "other", days=1, clock=clock),
        issue(b"x" * 32, "cam", days=1, clock=clock),
        "hello",
    ]
    for other in others:
        error = _refused(store, ticket, _report(ticket, other))
        assert isinstance(error, TicketError)
        assert error.details["reason"] == "device"


def test_of_a_network_that_nobody_serves(store: Store, ticket: Ticket, token: str) -> None:
    unknown = replace(ticket, network_hash="0" * 64)
    assert _refused(store, ticket, _report(unknown, token)).details["reason"] == "network"
    shorter = replace(ticket, tail=ticket.tail[1:])
    assert _refused(store, ticket, _report(shorter, token)).details["reason"] == "network"


def test_of_a_class_that_the_model_lacks(store: Store, ticket: Ticket, token: str) -> None:
    for class_id in (5, -1):
        error = _refused(store, ticket, _report(replace(ticket, class_id=class_id), token))
        assert error.details["reason"] == "class"
        assert "from 0 to 4" in error.message


@pytest.mark.parametrize(
    "values", [[], [0.1, 0.1], [-1e-9], [1e9], [10**400], ["0.1"], [None], 0.1, None]
)
def test_values_that_cannot_be(store: Store, ticket: Ticket, token: str, values: object) -> None:
    error = _refused(store, ticket, _report(ticket, token, values=values))
    assert isinstance(error, ProbeError | WireError)
    assert "expected" in error.message


def test_infinite_values_that_a_servers_parser_may_take(
    store: Store, ticket: Ticket, token: str
) -> None:
    error = _refused(store, ticket, _report(ticket, token, values=[float("inf")]))
    assert "'conv1': expected 0 to" in error.message


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
_FIELDS = st.dictionaries(
    st.sampled_from(["ticket", "values", "network", "class", "device"]), _JSON
)


@given(raw=_JSON | _FIELDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_but_errors_of_ours_comes_out(
    store: Store, ticket: Ticket, token: str, raw: Any
) -> None:
    _refused(store, ticket, raw)
    if isinstance(raw, dict):
        with suppress(IsplitError):  # one number from 0 on is a value like any other
            take_report(
                store,
                VERIFIER,
                {**_report(ticket, token), **raw, "ticket": ticket.seal(SECRET)},
                clock=clock,
            )


def test_no_more_than_a_device_may_add(store: Store, ticket: Ticket, token: str) -> None:
    for number in range(3):
        take_report(
            store,
            VERIFIER,
            _report(replace(ticket, probe=f"{number:032x}"), token),
            per_hour=3,
            clock=clock,
        )
    more = replace(ticket, probe="f" * 32, expires=int(NOW) + 10_000)
    with pytest.raises(ProbeBudgetError, match="at most 3"):
        take_report(store, VERIFIER, _report(more, token), per_hour=3, clock=clock)
    take_report(store, VERIFIER, _report(more, token), per_hour=3, clock=lambda: NOW + 3601)


def test_limits_of_values(profile: Profile) -> None:
    limits = curve_limits(profile)
    assert (limits > 0).all()
    assert (limits >= 10 * profile.mean0).all()
    # By hand: all inputs of the profile together, whatever their class.
    by_hand = replace(
        profile, measurements=(), count=np.array([2, 2]), class_ids=np.array([0, 1]), mean0=np.full(6, 1.0),
        sum1=np.array([[1.0] * 6, [-1.0] * 6]), sum2=np.array([[2.0] * 6, [2.0] * 6]),
    )  # fmt: skip
    np.testing.assert_allclose(curve_limits(by_hand), 10.0 + 100.0)


def test_limits_of_times(profile: Profile) -> None:
    limits = ReportLimits(profile)
    head = profile.head_ms["relu1"]
    assert limits.head_ms("relu1", 5.0) == 5.0
    assert limits.head_ms("relu1", 1000.0 + 999.0 * head) == 1000.0 + 999.0 * head
    assert np.isnan(limits.head_ms("relu1", 1001.0 + 1000.0 * head))
    assert limits.head_ms("relu1", 1001.0 + 1000.0 * head, 2) > 0  # two items take longer
    assert np.isnan(limits.head_ms("relu1", float("nan")))
    assert np.isnan(limits.encode_ms(Cut("relu1", "fp32"), 1e6))
    assert limits.encode_ms(Cut("relu1", "never-measured"), 1e6) == 1e6
