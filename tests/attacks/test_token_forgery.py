"""Device tokens and tickets that the operator did not sign, or signed for something else.

Defence: HMAC-SHA256 under the operator's secret, compared in constant time, over a label for each
use and the whole payload. A token has one spelling. What a token claims is read only when its
signature is right; for display it is read strictly, and told apart from what was verified.
Labels have a secret of their own. A device can be revoked (tests/device_tokens/test_revoked.py).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import string
from typing import Any

import numpy as np
import pytest

from isplit_plugin.device_tokens import issue, peek, seal, verify
from isplit_plugin.errors import TicketError, TokenError
from isplit_plugin.probing.tickets import Ticket
from isplit_plugin.schema import Cut

SECRET = b"0123456789abcdef0123456789abcdef"
NOW = 1e9
TOKEN = issue(SECRET, "phone-1", days=1, group="north", clock=lambda: NOW)
_ALPHABET = string.ascii_letters + string.digits + "-_+/=. \n"


def _refused(token: str) -> None:
    with pytest.raises(TokenError):
        verify(SECRET, token, clock=lambda: NOW)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _signed(payload: Any, key: bytes) -> str:
    body = json.dumps(payload, separators=(",", ":")).encode()
    mac = hmac.new(key, b"isplit1\0" + body, hashlib.sha256).digest()
    return f"isplit1.{_b64(body)}.{_b64(mac)}"


def test_every_other_character_in_every_place() -> None:
    """Also those that differ only in bits that base64 does not use."""
    assert verify(SECRET, TOKEN, clock=lambda: NOW).id == "phone-1"
    for place, right in enumerate(TOKEN):
        for other in _ALPHABET:
            if other != right:
                _refused(TOKEN[:place] + other + TOKEN[place + 1 :])


def test_other_spellings() -> None:
    version, body, signature = TOKEN.split(".")
    for token in (
        TOKEN + "=",
        TOKEN + ".",
        TOKEN + "\n",
        " " + TOKEN,
        f"{version}.{body}=.{signature}",
        f"{version}.{body}.{signature}.{signature}",
        f"{version}..{signature}",
        f"{version}.{body}.",
        f"ISPLIT1.{body}.{signature}",
        f"none.{body}.{signature}",
        signature + body,
    ):
        _refused(token)


@pytest.mark.parametrize(
    "key", [b"", b"isplit1", SECRET[:-1], SECRET + b"1", SECRET.hex().encode(), SECRET[::-1]]
)
def test_a_guessed_key(key: bytes) -> None:
    _refused(_signed(["phone-1", "north", NOW, 4e9], key))


def test_signatures_of_another_use() -> None:
    """What the server signs for a device to read is no token, and a token is no ticket."""
    ticket = Ticket.new(
        cut=Cut("relu", "fp32"),
        group="all",
        device=None,
        tail=np.ones(1),
        network_hash="feed",
        class_id=0,
        clock=lambda: NOW,
    ).seal(SECRET)
    _refused(ticket)
    _refused(f"isplit1.{ticket}")
    for text in (TOKEN, TOKEN.partition(".")[2]):
        with pytest.raises(TicketError):
            Ticket.read(SECRET, text, clock=lambda: NOW)


def test_a_longer_life() -> None:
    body = json.loads(base64.urlsafe_b64decode(TOKEN.split(".")[1] + "=="))
    body[3] += 10**9
    forged = _b64(json.dumps(body, separators=(",", ":")).encode())
    _refused(f"isplit1.{forged}.{TOKEN.split('.')[2]}")
    with pytest.raises(TokenError, match="expired"):
        verify(SECRET, TOKEN, clock=lambda: NOW + 86_400)


@pytest.mark.parametrize(
    "payload",
    [
        ["\x1b[2Jphone", None, NOW, NOW],
        ["phone\nadmin", None, NOW, NOW],
        ["phone", "\x1b]0;title\x07", NOW, NOW],
        ["phone", None, NOW, 10**30],
        ["phone", None, -1, NOW],
        [["phone"], None, NOW, NOW],
        ["phone", {"a": 1}, NOW, NOW],
    ],
    ids=ascii,
)
def test_claims_that_are_only_shown(payload: list[Any]) -> None:
    """`isplit device show` prints them without a secret."""
    with pytest.raises(TokenError):
        peek(_signed(payload, b"a key of their own"))


def test_claims_as_deep_as_they_are_long() -> None:
    with pytest.raises(TokenError):
        peek(f"isplit1.{_b64(b'[' * 100_000)}.x")


def test_the_helper_signs_as_the_product_does() -> None:
    """Else the tests above would refuse everything for another reason."""
    payload = ["phone-1", "north", NOW, 4_000_000_000]
    assert _signed(payload, SECRET) == f"isplit1.{seal(SECRET, 'isplit1', payload)}"
    assert verify(SECRET, _signed(payload, SECRET), clock=lambda: NOW).group == "north"
