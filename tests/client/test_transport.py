"""The network's faults: what is tried again, what is not, and which error comes out."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from toys.client import (
    BUSY,
    DIED,
    KILLED,
    TOKEN,
    Fault,
    Handler,
    Server,
    answering,
    hang,
    hang_up,
    photo,
    recommendation,
    reset,
    torchserve_error,
    truncated,
)

from isplit_plugin import errors
from isplit_plugin.client import SplitClient, Transport, fetch_recommendation
from isplit_plugin.errors import (
    AuthenticationError,
    ProtocolError,
    QueryError,
    RateLimitError,
    ServerBusyError,
    ServerTimeoutError,
    ServerUnavailableError,
    StoreBusyError,
    StoreError,
    TokenError,
    TransportError,
    UnknownModelError,
    WireError,
    WireSizeError,
)
from isplit_plugin.schema import Cut

Connect = Callable[..., SplitClient]
GREEN = photo(51, 204, 0)
STORE_BUSY = answering(503, b'{"error": "another writer", "code": "store_busy"}')


@pytest.mark.parametrize(
    "fault",
    [reset, hang_up, BUSY, STORE_BUSY, DIED, KILLED],
    ids=["reset", "hang up", "busy", "store busy", "died", "killed"],
)
def test_what_is_safe_is_tried_again(connect: Connect, server: Server, fault: Fault) -> None:
    server.state.faults = [fault]
    assert connect().predict(GREEN).label == "green"
    assert len(server.state.seen) == 2
    assert server.state.seen[0].body == server.state.seen[1].body


def test_a_server_that_closes_idle_connections(connect: Connect, server: Server) -> None:
    client = connect()
    client.predict(GREEN)
    server.state.faults = [answering(200, b"bye", Connection="close"), reset]
    with pytest.raises(ProtocolError):
        client.predict(GREEN)
    assert client.predict(GREEN).label == "green"


@pytest.mark.parametrize(
    ("fault", "attempts", "expected", "says"),
    [
        (reset, 3, ServerUnavailableError, "POST http.*/predictions/toy/1.0 with a body of .* bytes: Connection"),
        (hang_up, 3, ServerUnavailableError, "RemoteDisconnected"),
        (BUSY, 3, ServerBusyError, "queue is full"),
        (STORE_BUSY, 3, StoreBusyError, "another writer"),
        (DIED, 2, ServerUnavailableError, "Worker died"),
        (KILLED, 2, ServerUnavailableError, "507: Worker died"),
        (truncated, 1, ServerUnavailableError, "broke off"),
        (torchserve_error(503, "ServiceUnavailable", "Prediction failed"), 1, ServerUnavailableError, "Prediction fai"),
        (answering(502, b"<html>Bad\r\n\x00Gateway"), 1, ServerUnavailableError, "502: <html>Bad   Gateway"),
        (answering(413), 1, WireSizeError, "refused a body of .* bytes: more than its max_request_size .6553500"),
        (answering(302, b"", Location="http://127.0.0.1:9/"), 1, ProtocolError, "HTTP 302"),
        (answering(200, b"<html>Welcome to the hotel"), 1, ProtocolError, "not valid JSON"),
        (answering(200, b""), 1, ProtocolError, "not valid JSON"),
        (answering(200, b"{}"), 1, ProtocolError, "outputs"),
        (answering(200, b"{}", Inference_Header_Content_Length="x"), 1, ProtocolError, "expected a number"),
        (answering(200, b"x" * 70_000), 1, ProtocolError, "at most 65536 bytes"),
        (answering(200, gzip.compress(bytes(10**6)), Content_Encoding="gzip"), 1, ProtocolError, "got 'gzip'"),
        (answering(404, b'{"code": 404, "type": "ModelNotFoundException", "message": "Model not found: toy"}'), 1,
         UnknownModelError, "Model not found"),
        (answering(404, b"nothing here"), 1, ProtocolError, "HTTP 404: nothing here"),
        (answering(401, b""), 1, AuthenticationError, "HTTP 401"),
        (answering(403, b""), 1, AuthenticationError, "HTTP 403"),
        (torchserve_error(400, "InvalidKeyException", "Token Authorization failed."), 1, AuthenticationError, "token"),
        (answering(400, b'{"error": "no tensor", "code": "malformed_request"}'), 1, WireError, "no tensor"),
        (answering(503, b'{"error": "locked", "code": "store_unavailable", "details": {"n": 1}}'), 1, StoreError, "lo"),
        (answering(418, b'{"error": "teapot", "code": "tea"}'), 1, ProtocolError, "teapot"),
        (answering(400, b"[" * 50_000), 1, ProtocolError, "HTTP 400"),
    ],
)  # fmt: skip
def test_faults(
    connect: Connect, server: Server, *, fault: Fault, attempts: int, expected: Any, says: str
) -> None:
    server.state.always = fault
    with pytest.raises(expected, match=says) as caught:
        connect(max_response_bytes=65536).predict(GREEN)
    assert type(caught.value) is expected
    assert len(server.state.seen) == attempts
    json.dumps(caught.value.to_json())


@pytest.mark.parametrize("kind", sorted({k.code for k in errors.classes_by_code().values()}))
def test_every_error_of_the_server_comes_out_as_itself(
    connect: Connect, server: Server, kind: str
) -> None:
    meant = errors.classes_by_code()[kind]("a message", fact=1)
    server.state.always = answering(meant.status, json.dumps(meant.to_json()).encode())
    with pytest.raises(type(meant), match="a message") as caught:
        connect(retries=0).predict(GREEN)
    details = dict(caught.value.details)
    assert (details.pop("client", None) is not None) == (
        kind in ("unknown_codec", "codec_missing")
    )  # the client adds its own codecs
    assert (type(caught.value), details) == (type(meant), {"fact": 1})


def test_a_slow_server(connect: Connect, server: Server) -> None:
    server.state.always = hang
    with pytest.raises(ServerTimeoutError, match=r"no complete answer within 0\.2 s"):
        connect(timeout=(5.0, 0.2)).predict(GREEN)
    assert len(server.state.seen) == 1  # it may still be working on it


def test_nobody_listens(connect: Connect) -> None:
    with pytest.raises(ServerUnavailableError, match="refused"):
        connect(url="http://127.0.0.1:9").predict(GREEN)


def test_retries_are_bounded_and_can_be_off(connect: Connect, server: Server) -> None:
    server.state.faults = [BUSY]
    with pytest.raises(ServerBusyError):
        connect(retries=0).predict(GREEN)
    server.state.faults = [BUSY, reset, BUSY, DIED]
    assert connect(retries=4).predict(GREEN).label == "green"


def test_a_token_is_sent(connect: Connect, server: Server) -> None:
    server.state.token = TOKEN
    assert connect(token=TOKEN).predict(GREEN).label == "green"
    with pytest.raises(AuthenticationError):
        connect().predict(GREEN)
    with pytest.raises(AuthenticationError):
        connect(token="another").predict(GREEN)


def test_a_token_callable_is_read_again_once(connect: Connect, server: Server) -> None:
    calls: list[str] = []

    def read() -> str:
        calls.append(TOKEN if calls else "expired")
        return calls[-1]

    server.state.token = TOKEN
    client = connect(token=read)
    for _ in range(3):
        assert client.predict(GREEN).label == "green"
    assert calls == ["expired", TOKEN]
    server.state.token = "renewed elsewhere"
    with pytest.raises(AuthenticationError):
        client.predict(GREEN)
    assert calls == ["expired", TOKEN, TOKEN]


def _broken() -> str:
    raise OSError("no such key file: s3cret-token")


@pytest.mark.parametrize(
    "token", ["", "two words", "line\r\nbreak: x", "\u20ac", lambda: None, lambda: 5, _broken]
)
def test_tokens_that_are_none(connect: Connect, server: Server, token: Any) -> None:
    with pytest.raises(AuthenticationError):
        connect(token=token).predict(GREEN)
    assert server.state.seen == []


def test_tokens_are_never_told(
    connect: Connect,
    server: Server,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    server.state.faults = [reset, BUSY, answering(500, b"x")]
    client = connect(token=TOKEN)
    with pytest.raises(ServerUnavailableError) as caught:
        client.predict(GREEN)
    assert TOKEN not in caplog.text + repr(caught.value) + repr(vars(caught.value)) + repr(client)


def test_no_password_of_a_netrc_file_is_sent(
    connect: Connect, server: Server, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    connect().predict(GREEN)
    assert "Authorization" not in server.state.seen[-1].headers


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8080",
        "ftp://host",
        "http://",
        "http://user:pw@host",
        "http://host?x=1",
        "http://h:x",
        "file:///",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(TransportError, match="expected an address") as caught:
        Transport(url)
    assert "pw" not in str(caught.value)


def test_a_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.state.always = answering(200, b"through the proxy")
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    transport = Transport("http://192.0.2.1:8080", token=TOKEN, timeout=5)
    for _ in range(2):
        assert transport.get("/ping").body == b"through the proxy"
    transport.close()
    assert server.state.seen[-1].path == "http://192.0.2.1:8080/ping"
    assert len(server.state.connections) == 1
    assert server.state.ended.wait(60)


def test_no_cookie_is_kept(connect: Connect, server: Server) -> None:
    server.state.faults = [answering(400, b"{}", Set_Cookie="track=me; Path=/")]
    client = connect()
    with pytest.raises(TransportError):
        client.predict(GREEN)
    client.predict(GREEN)
    assert "Cookie" not in server.state.seen[-1].headers


def test_a_prefix_and_a_trailing_slash(server: Server) -> None:
    with pytest.raises(UnknownModelError):
        fetch_recommendation(server.url + "/proxy/", "toy")
    assert server.state.seen[-1].path == "/proxy/predictions/isplit/1.0/recommendations/toy"


def test_recommendations(connect: Connect, server: Server) -> None:
    client = connect(token=TOKEN)
    assert client.recommendation() == recommendation()
    assert (server.state.seen[-1].method, server.state.seen[-1].path) == (
        "GET",
        "/predictions/isplit/1.0/recommendations/toy/version/1.0/network_hash/feed",
    )
    assert server.state.seen[-1].headers["Authorization"] == f"Bearer {TOKEN}"
    client.recommendation(classes=(1, 2))
    assert server.state.seen[-1].path.endswith("/network_hash/feed/classes/1,2")
    client.recommendation(classes=[3], group="north", bandwidth_mbps=2.5, max_bytes=None)
    assert (server.state.seen[-1].method, server.state.seen[-1].path) == (
        "POST",
        "/predictions/isplit",
    )
    assert json.loads(server.state.seen[-1].body) == {
        "model": "toy",
        "version": "1.0",
        "network_hash": "feed",
        "classes": [3],
        "group": "north",
        "constraints": {"bandwidth_mbps": 2.5},
    }
    connect(group="south").recommendation()
    assert json.loads(server.state.seen[-1].body)["group"] == "south"


def test_a_recommendation_without_a_client(server: Server) -> None:
    assert fetch_recommendation(server.url, "b c", TOKEN, rtt_ms=20).cut == Cut("pool", "uint8")
    assert json.loads(server.state.seen[-1].body)["model"] == "b c"
    assert fetch_recommendation(server.url, "b c").use.codec == "uint8"
    assert server.state.seen[-1].path == "/predictions/isplit/1.0/recommendations/b%20c"


@pytest.mark.parametrize("classes", [[], [-1], ["1"], [True], [1.0]])
def test_class_ids_are_checked_here(server: Server, classes: list[Any]) -> None:
    with pytest.raises(QueryError, match="classes"):
        fetch_recommendation(server.url, "toy", classes=classes)
    with pytest.raises(QueryError, match="finite"):
        fetch_recommendation(server.url, "toy", rtt_ms=float("nan"))
    assert server.state.seen == []


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"model": NaN}', json.dumps({"model": 1}).encode()]
)
def test_recommendations_that_are_none(server: Server, body: bytes) -> None:
    server.state.always = answering(200, body)
    with pytest.raises(ProtocolError):
        fetch_recommendation(server.url, "toy")


def test_a_closed_client_has_no_open_connection(connect: Connect, server: Server) -> None:
    server.state.always = answering(200, b"x" * 70_000)
    client = connect(max_response_bytes=65536)
    with pytest.raises(ProtocolError) as kept:  # and with it the stack, and all that it refers to
        client.predict(GREEN)
    client.close()
    assert server.state.ended.wait(60)
    assert kept.value.code == "bad_response"


@pytest.mark.parametrize("size", [10**5, 2 * 10**7])
def test_a_refusal_that_comes_before_the_body_was_read(size: int) -> None:
    def refuse() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(
                b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(2**20):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=refuse)
        thread.start()
        transport = Transport(f"http://127.0.0.1:{listening.getsockname()[1]}", retries=0)
        with pytest.raises(WireSizeError, match=f"a body of {size} bytes"):
            transport.post("/predictions/toy", bytes(size), {})
        transport.close()
        thread.join()


def test_a_forwarder_says_when_to_try_again(
    server: Server, connect: Callable[..., SplitClient]
) -> None:
    def refusing(status: int, code: str, **details: Any) -> Fault:
        body = {"error": "later", "code": code, "details": details}
        return answering(status, json.dumps(body).encode())

    server.state.faults += [
        refusing(429, "rate_limited", retry_after_s=0.01),
        refusing(503, "unavailable", retry_after_s=0.01),
    ]
    assert connect().predict(photo(200, 0, 0)).label == "red"
    assert len(server.state.seen) == 3
    server.state.always = refusing(429, "rate_limited", retry_after_s=3600)
    started = time.monotonic()
    with pytest.raises(RateLimitError):
        connect(deadline=120.0).predict(photo(200, 0, 0))
    assert time.monotonic() - started < 60
    assert len(server.state.seen) == 4
    for odd in (float("inf"), -1, "1", True, None):
        server.state.seen.clear()
        server.state.always = refusing(503, "unavailable", retry_after_s=str(odd))
        with pytest.raises(ServerUnavailableError):
            connect().predict(photo(200, 0, 0))
        assert len(server.state.seen) == 1
    server.state.seen.clear()
    server.state.always = refusing(409, "probe_refused", retry_after_s=0.01)
    with pytest.raises(errors.ProbeError):
        connect().predict(photo(200, 0, 0))
    assert len(server.state.seen) == 1


def test_a_device_token_lets_a_client_in_where_there_is_no_other(
    server: Server, connect: Callable[..., SplitClient]
) -> None:
    server.state.token = "device"
    connect(device_token="device").predict(photo(0, 0, 0))
    connect(token="device", device_token="other").predict(photo(0, 0, 0))
    with pytest.raises(AuthenticationError):
        connect(token="other", device_token="device").predict(photo(0, 0, 0))


def test_a_refused_device_token_is_read_again_once(
    server: Server, connect: Callable[..., SplitClient]
) -> None:
    body = {"error": "expired", "code": "bad_device_token", "details": {"reason": "expired"}}
    refused = answering(403, json.dumps(body).encode())
    current = ["old"]

    def refused_and_replaced(handler: Handler) -> None:
        current[0] = "new"
        refused(handler)

    server.state.faults = [refused_and_replaced]
    connect(device_token=lambda: current[0]).predict(photo(0, 0, 0))
    assert [seen.headers["Authorization"] for seen in server.state.seen] == [
        "Bearer old",
        "Bearer new",
    ]
    server.state.always = refused
    with pytest.raises(TokenError):
        connect(device_token=lambda: "old").predict(photo(0, 0, 0))
    assert len(server.state.seen) == 4
