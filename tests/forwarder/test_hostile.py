"""Clients that break the protocol, dawdle, or come in crowds: over raw sockets."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from toys.client import Server, answering
from toys.forwarder import Forward, Issue
from toys.polling import until

from isplit_plugin.forwarder import Forwarder


def connect(forwarder: Forwarder) -> socket.socket:
    parts = urlsplit(forwarder.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60)


def head(token: str, *lines: str, target: str = "/predictions/toy", method: str = "POST") -> bytes:
    start = (f"{method} {target} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}")
    return "\r\n".join([*start, *lines, "", ""]).encode("latin-1")


def start_of_answer(raw: socket.socket, end: bytes) -> bytes:
    """What comes until these bytes, or until the connection ends."""
    data = b""
    with suppress(ConnectionError):
        while end not in data and (piece := raw.recv(65536)):
            data += piece
    return data


def answers(raw: socket.socket) -> list[tuple[int, Any]]:
    """Status and JSON of everything that comes until the connection ends."""
    data = b""
    with suppress(ConnectionError):
        while piece := raw.recv(65536):
            data += piece
    found = []
    while data:
        start, _, data = data.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in start.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        found.append((int(start.split(b" ")[1]), json.loads(data[:length] or b"null")))
        data = data[length:]
    return found


SMUGGLED = b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (["Content-Length: 5", "Transfer-Encoding: chunked"], b"0\r\n\r\n" + SMUGGLED),
        (["Transfer-Encoding: chunked", "Content-Length: 5"], b"0\r\n\r\n" + SMUGGLED),
        (["Content-Length: 5", "Content-Length: 6"], b"hello" + SMUGGLED),
        (["Content-Length: 5, 6"], b"hello" + SMUGGLED),
        (["Content-Length: +5"], b"hello" + SMUGGLED),
        (["Content-Length: -5"], b"hello" + SMUGGLED),
        (["Content-Length: 0x5"], b"hello" + SMUGGLED),
        (["Content-Length: 5 5"], b"hello" + SMUGGLED),
        (["Content-Length : 5"], b"hello" + SMUGGLED),
        (["Content-Length: 99999999999999999999999"], b"hello"),
        (["Transfer-Encoding: xchunked"], b"5\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
        (["Transfer-Encoding: chunked, identity"], b"5\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
        (["Transfer-Encoding : chunked"], b"5\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
        (["Transfer-Encoding: \x0bchunked"], b"5\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
        (["Transfer-Encoding: chunked"], b"5;\nX\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
        (["Transfer-Encoding: chunked"], b"-5\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
        (["Transfer-Encoding: chunked"], b"fffffffffffffffff\r\nhello\r\n" + SMUGGLED),
        (["X: a\rb", "Content-Length: 5"], b"hello" + SMUGGLED),
        (["X: a\x00b", "Content-Length: 5"], b"hello" + SMUGGLED),
        (["X y: a", "Content-Length: 5"], b"hello" + SMUGGLED),
        ([" X: a", "Content-Length: 5"], b"hello" + SMUGGLED),
    ],
)
def test_two_readings_of_one_request(
    server: Server, forward: Forward, issued: Issue, lines: list[str], body: bytes
) -> None:
    """The request is refused and its connection ends, so nothing behind it is read as another."""
    with connect(forward()) as raw:
        raw.sendall(head(issued(), *lines) + body)
        found = answers(raw)
    assert [status // 100 for status, _ in found] == [4]
    assert all(answer["code"] in ("malformed_request", "too_large") for _, answer in found)
    assert all(seen.path == "/predictions/toy" for seen in server.state.seen)
    assert not any(b"/models" in seen.body for seen in server.state.seen)


def test_requests_in_a_row_are_each_admitted(
    server: Server, forward: Forward, issued: Issue
) -> None:
    server.state.always = answering(200, b"1")
    with connect(forward()) as raw:
        first = head(issued(), "Content-Length: 2") + b"ab"
        last = head(issued(), "Content-Length: 2", "Connection: close") + b"ab"
        raw.sendall(first + SMUGGLED + last)
        statuses = [status for status, _ in answers(raw)]
    assert statuses == [200, 401, 200]


@pytest.mark.parametrize(
    "start",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 2_000 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"X" * 20_000 + b": a\r\n\r\n",
    ],
)
def test_no_request_at_all(server: Server, forward: Forward, start: bytes) -> None:
    with connect(forward()) as raw:
        with suppress(ConnectionError):
            raw.sendall(start)
        found = answers(raw)
    for status, answer in found:
        assert (status, answer["code"]) == (400, "malformed_request")
        assert "expected an HTTP/1.1 request" in answer["error"]
        assert len(answer["error"]) < 300
    assert not server.state.seen


def test_a_head_that_never_ends(server: Server, forward: Forward) -> None:
    forwarder = forward(idle_s=0.3)
    with connect(forwarder) as silent, connect(forwarder) as slow:
        started = time.monotonic()
        slow.sendall(b"POST /predictions/toy HTTP/1.1\r\nHost: x\r\nX: ")
        with suppress(ConnectionError):
            while time.monotonic() < started + 100:
                slow.sendall(b"a")
                time.sleep(0.05)
        assert time.monotonic() - started < 60
        assert silent.recv(10) == b""


@pytest.mark.parametrize("lines", [["Content-Length: 1000000"], ["Transfer-Encoding: chunked"]])
def test_a_body_that_never_ends(
    server: Server, forward: Forward, issued: Issue, lines: list[str]
) -> None:
    forwarder = forward(body_grace_s=0.3, body_rate=1e6)
    with connect(forwarder) as raw:
        raw.sendall(head(issued(), *lines))
        raw.sendall(b"3\r\nabc\r\n" * 10)
        answer = start_of_answer(raw, b'"too_slow"')
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "too_slow"' in answer
    assert b"expected a body with at least 1e+06 bytes a second" in answer
    assert requests.get(f"{forwarder.url}/ping", timeout=60).status_code == 503  # it goes on


def test_a_device_that_goes_away_within_its_body(
    server: Server, forward: Forward, issued: Issue
) -> None:
    forwarder = forward(requests=1)
    with connect(forwarder) as raw:
        raw.sendall(head(issued(), "Content-Length: 1000000") + b"x" * 300_000)
    url = f"{forwarder.url}/predictions/isplit/1.0/help"
    headers = {"Authorization": f"Bearer {issued()}"}
    until(lambda: requests.get(url, headers=headers, timeout=60).status_code == 200)
    assert all(seen.path != "/predictions/toy" for seen in server.state.seen)


def test_a_device_that_goes_away_before_its_answer(
    server: Server, forward: Forward, issued: Issue
) -> None:
    from toys.client import hang

    forwarder = forward(requests=1)
    server.state.faults = [hang]
    with connect(forwarder) as raw:
        raw.sendall(head(issued(), "Content-Length: 1") + b"x")
        until(lambda: server.state.seen)
    url = f"{forwarder.url}/predictions/isplit/1.0/help"
    headers = {"Authorization": f"Bearer {issued()}"}
    until(lambda: requests.get(url, headers=headers, timeout=60).status_code == 200)


def test_an_answer_that_nobody_reads(server: Server, forward: Forward, issued: Issue) -> None:
    server.state.always = answering(200, b"x" * 20_000_000)
    forwarder = forward(unread_s=0.5, requests_per_device=1)
    with connect(forwarder) as raw:
        raw.sendall(head(issued(), "Content-Length: 1") + b"x")
        until(lambda: server.state.seen)
        url = f"{forwarder.url}/predictions/isplit/1.0/help"
        headers = {"Authorization": f"Bearer {issued()}"}
        until(lambda: requests.get(url, headers=headers, timeout=60).status_code == 200)


def test_many_connections_from_one_address(server: Server, forward: Forward) -> None:
    forwarder = forward(connections_per_address=5)
    with ExitStack() as stack:
        crowd = [stack.enter_context(connect(forwarder)) for _ in range(50)]
        until(lambda: sum(_is_ended(raw) for raw in crowd) == 45)
    _until_it_answers(forwarder)


def test_many_connections(server: Server, forward: Forward) -> None:
    forwarder = forward(connections=5)
    with ExitStack() as stack:
        crowd = [stack.enter_context(connect(forwarder)) for _ in range(20)]
        until(lambda: sum(_is_ended(raw) for raw in crowd) == 15)
    _until_it_answers(forwarder)


def _is_ended(raw: socket.socket) -> bool:
    raw.setblocking(False)
    try:
        return raw.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def _until_it_answers(forwarder: Forwarder) -> None:
    def answers_now() -> bool:
        with suppress(requests.ConnectionError):
            return requests.get(f"{forwarder.url}/ping", timeout=60).status_code == 503
        return False

    until(answers_now)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["Content-Encoding: gzip"], "no Content-Encoding"),
        (["Content-Type: multipart/form-data; boundary=x"], "curl -T"),
        (["Content-Type: application/x-www-form-urlencoded"], "not a form"),
        (["Inference-Header-Content-Length: 1", "inference-header-content-length: 2"], "several"),
        (["Isplit-New: a", "isplit-new: b"], "several"),
        (["Content-Type: a/b", "Content-Type: c/d"], "Duplicate"),
        (["Authorization: Bearer x"], "got several"),
    ],
)
def test_headers_with_two_meanings(
    server: Server, forward: Forward, issued: Issue, lines: list[str], said: str
) -> None:
    with connect(forward()) as raw:
        raw.sendall(head(issued(), *lines, "Content-Length: 1", "Connection: close") + b"x")
        ((status, answer), *_) = answers(raw)
    assert status in (400, 401)
    assert said in answer["error"]
    assert not server.state.seen


def test_a_question_with_a_body(server: Server, forward: Forward, issued: Issue) -> None:
    target = "/predictions/isplit/1.0/help"
    for lines in (["Content-Length: 1"], ["Transfer-Encoding: chunked"]):
        with connect(forward()) as raw:
            body = b"x" if lines[0].startswith("C") else b"1\r\nx\r\n0\r\n\r\n"
            raw.sendall(
                head(issued(), *lines, "Connection: close", target=target, method="GET") + body
            )
            ((status, answer), *_) = answers(raw)
        assert (status, answer["code"]) == (413, "too_large")
    assert not server.state.seen


@pytest.mark.parametrize(
    ("body", "got"),
    [
        (b"", "nothing"),
        (b"[]", "list"),
        (b"[" * 200_000, "200000 bytes that are no JSON"),
        (b"null", "NoneType"),
        (b"{'a': 1}", "8 bytes that are no JSON"),
        (b"\xff\xfe", "2 bytes that are no JSON"),
    ],
)
def test_messages_that_are_no_json_object(
    server: Server, forward: Forward, issued: Issue, body: bytes, got: str
) -> None:
    answer = requests.post(
        f"{forward().url}/predictions/isplit",
        body,
        headers={"Authorization": f"Bearer {issued()}"},
        timeout=60,
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_query")
    assert answer.json()["error"] == f"body: expected a JSON object, got {got}"
    assert not server.state.seen


def test_a_device_asks_before_it_sends(server: Server, forward: Forward, issued: Issue) -> None:
    forwarder = forward(max_body=1000)
    server.state.always = answering(200, b"1")
    with connect(forwarder) as raw:
        raw.sendall(head(issued(), "Content-Length: 2", "Expect: 100-continue"))
        assert start_of_answer(raw, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(b"ab")
        assert start_of_answer(raw, b"\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    with connect(forwarder) as raw:
        raw.sendall(head(issued(), "Content-Length: 2000", "Expect: 100-continue"))
        assert start_of_answer(raw, b"\r\n").startswith(b"HTTP/1.1 413 ")
