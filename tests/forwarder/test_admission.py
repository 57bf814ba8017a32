"""Who is admitted, and what those who are not are told."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
import requests
from toys.client import Server
from toys.forwarder import Forward, Issue

from isplit_plugin.client import Transport
from isplit_plugin.device_tokens import revoke, revoked_path
from isplit_plugin.errors import AuthenticationError, TokenError

HELP = "/predictions/isplit/1.0/help"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "isplit1.a.b"},
    ],
)
def test_without_a_token(server: Server, forward: Forward, headers: dict[str, str]) -> None:
    answer = requests.get(forward().url + HELP, headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert "expected the header 'Authorization: Bearer <device token>'" in answer.json()["error"]
    assert "isplit device issue" in answer.json()["error"]
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert not server.state.seen


@pytest.mark.parametrize("reason", ["malformed", "forged", "expired", "revoked", "group"])
def test_tokens_that_do_not_hold(
    server: Server, forward: Forward, issued: Issue, secret_file: Path, reason: str
) -> None:
    tokens = {
        "malformed": server.state.token,  # TorchServe's own token is none of a device
        "forged": issued()[:-3] + "AAA",
        "expired": issued(clock=lambda: time.time() - 90_000),
        "revoked": issued("lost", group="door"),
        "group": issued(group="window"),
    }
    revoke(revoked_path(secret_file), ["lost"])
    answer = requests.get(
        forward(groups=("door", "gate")).url + HELP,
        headers={"Authorization": f"Bearer {tokens[reason]}"},
        timeout=60,
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "bad_device_token")
    assert answer.json()["details"]["reason"] == reason
    expected = {
        "malformed": "expected isplit1.<payload>.<signature>",
        "forged": "it was not signed with this server's secret",
        "expired": "it was valid until 20",
        "revoked": "the operator revoked device lost at 20",
        "group": "expected a device of group door, gate, got device phone-1 of group window",
    }
    assert expected[reason] in answer.json()["error"]
    assert "isplit device issue" in answer.json()["error"]
    assert not server.state.seen


def test_groups_that_are_admitted(server: Server, forward: Forward, issued: Issue) -> None:
    url = forward(groups=("door",)).url + HELP
    for group, status in (("door", 200), (None, 403), ("doo", 403)):
        headers = {"Authorization": f"Bearer {issued(group=group)}"}
        assert requests.get(url, headers=headers, timeout=60).status_code == status


def test_a_revocation_takes_effect_with_the_next_request(
    server: Server, forward: Forward, issued: Issue, secret_file: Path
) -> None:
    transport = Transport(forward().url, token=issued("lost"))
    transport.get(HELP)
    revoke(revoked_path(secret_file), ["lost"])
    with pytest.raises(TokenError, match="revoked"):
        transport.get(HELP)
    transport.close()
    Transport(forward().url, token=issued("lost")).get(HELP)
    assert len(server.state.seen) == 2


def test_a_new_token_is_read_when_the_old_one_has_expired(
    server: Server, forward: Forward, issued: Issue
) -> None:
    tokens = [issued(clock=lambda: time.time() - 90_000), issued()]
    transport = Transport(forward().url, token=lambda: tokens.pop(0))
    transport.get(HELP)
    transport.close()
    assert not tokens


def test_the_client_raises_what_the_forwarder_says(server: Server, forward: Forward) -> None:
    with pytest.raises(AuthenticationError, match="expected the header"):
        Transport(forward().url).get(HELP)


def test_refusals_fill_no_log(
    server: Server, forward: Forward, caplog: pytest.LogCaptureFixture
) -> None:
    url = forward().url + HELP
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            requests.get(url, timeout=60)
    lines = [r.getMessage() for r in caplog.records if "refused" in r.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("refused 127.0.0.1: 401 unauthorized: expected the header")
