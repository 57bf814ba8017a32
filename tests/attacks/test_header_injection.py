"""Line breaks in names that become headers or paths of HTTP.

Defence: the client takes tokens of printable ASCII only, and quotes names in paths. The server's
answers carry what a request named in JSON, never in a header of its own
(tests/e2e/test_live_hostile.py, test_header_lines_cannot_be_forged_through_names).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from toys.client import Server, photo

from isplit_plugin.client import SplitClient, fetch_recommendation
from isplit_plugin.errors import AuthenticationError, IsplitError

INJECTIONS = ("x\r\nX-Forged: 1", "x\nX-Forged: 1", "x\rX-Forged: 1", "x\0", "x\u2028X-Forged: 1")
GREEN = photo(51, 204, 0)
Connect = Callable[..., SplitClient]


def _nothing_forged(server: Server) -> None:
    for seen in server.state.seen:
        assert not any(name.lower() == "x-forged" for name in seen.headers)
        assert "\n" not in seen.path
        assert "\r" not in seen.path


@pytest.mark.parametrize("text", INJECTIONS)
def test_the_token(connect: Connect, server: Server, text: str) -> None:
    with connect(token=text) as client, pytest.raises(AuthenticationError):
        client.predict(GREEN)
    assert not server.state.seen


@pytest.mark.parametrize("text", INJECTIONS)
def test_the_model(server: Server, text: str) -> None:
    try:
        with SplitClient(server.url, model=text) as client:
            client.predict(b"\xff\xd8\xff")
    except IsplitError:
        pass
    _nothing_forged(server)


@pytest.mark.parametrize("text", INJECTIONS)
def test_the_model_and_group_of_a_question(server: Server, text: str) -> None:
    for model, group in ((text, None), ("toy", text)):
        with contextlib.suppress(IsplitError):
            fetch_recommendation(server.url, model, group=group)
    _nothing_forged(server)


@pytest.mark.parametrize("text", INJECTIONS)
def test_the_group_and_device_token_of_a_prediction(
    connect: Connect, server: Server, text: str
) -> None:
    for options in ({"group": text}, {"device_token": text}):
        try:
            with connect(**options) as client:
                client.predict(GREEN)
        except IsplitError:
            pass
    _nothing_forged(server)
