"""What passes, unchanged, and what TorchServe sees of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from toys.client import (
    BUSY,
    Handler,
    Server,
    answering,
    hang,
    photo,
    reset,
    torchserve_error,
    truncated,
)
from toys.forwarder import Forward, Issue, write_key
from toys.polling import until

from isplit_plugin.client import SplitClient, Transport, fetch_recommendation, send_labels
from isplit_plugin.device_tokens import DEVICE_HEADER
from isplit_plugin.errors import (
    ServerBusyError,
    ServerTimeoutError,
    ServerUnavailableError,
    UnknownModelError,
    WireSizeError,
)
from isplit_plugin.forwarder import Forwarder
from isplit_plugin.wire import read_server_time


def bearer(token: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **{k.replace("_", "-"): v for k, v in more.items()}}


def test_a_client_needs_its_device_token_alone(
    server: Server, forward: Forward, issued: Issue, connect: Callable[..., SplitClient]
) -> None:
    forwarder, token = forward(), issued()
    client = connect(url=forwarder.url, device_token=token)
    for cut in ("double:fp32", "pool:uint8+zstd", "input:jpeg"):
        assert client.predict(photo(200, 10, 10), cut=cut).label == "red"
    assert client.recommendation().cut.split_point == "pool"
    assert fetch_recommendation(forwarder.url, "toy", token, classes=[1]).model == "toy"
    assert fetch_recommendation(forwarder.url, "toy", token, max_bytes=100.0).model == "toy"
    assert len(server.state.connections) == 1
    for seen in server.state.seen:
        assert seen.headers["Authorization"] == f"Bearer {server.state.token}"
        assert seen.headers[DEVICE_HEADER] == token


@pytest.mark.parametrize("size", [100, 300_000], ids=["held", "streamed"])
def test_an_answer_says_how_long_torchserve_took(
    server: Server, forward: Forward, issued: Issue, size: int
) -> None:
    """From the last byte of the body on: neither the device's pace nor TorchServe's word counts."""

    def late(handler: Handler) -> None:
        server.state.stop.wait(0.3)
        handler.answer(200, b"x" * size, {"Isplit-Server-Ms": "7"})

    def slowly() -> Iterator[bytes]:
        for _ in range(4):
            server.state.stop.wait(0.3)
            yield b"x" * (size // 4)

    server.state.always = late
    started = time.perf_counter()
    answer = requests.post(
        f"{forward().url}/predictions/toy", data=slowly(), headers=bearer(issued()), timeout=60
    )
    elapsed_ms = 1e3 * (time.perf_counter() - started)
    assert len(answer.content) == size
    server_ms = read_server_time(answer.headers)
    assert 300 <= server_ms <= elapsed_ms - 900


def test_labels_and_reports_of_probes_pass(server: Server, forward: Forward, issued: Issue) -> None:
    forwarder, token = forward(), issued("office")
    server.state.always = answering(200, b'{"labels": [{"request_id": "a", "correct": true}]}')
    assert send_labels(forwarder.url, {"a": 1}, "secret", token).taken == 1
    transport = Transport(forwarder.url, token=token)
    body = b'{"probe": {"ticket": "x"}}'
    assert transport.post("/predictions/isplit", body, {}).body.startswith(b'{"labels"')
    transport.close()
    labels, probe = server.state.seen
    assert json.loads(labels.body)["token"] == "secret"
    assert (probe.body, probe.headers["Content-Type"]) == (body, "application/json")


def test_headers_that_pass_and_headers_that_do_not(
    server: Server, forward: Forward, issued: Issue
) -> None:
    server.state.always = answering(
        200, b"ok", Inference_Header_Content_Length="7", X_Request_Id="r1", Set_Cookie="a=b",
        Isplit_New="n", Access_Control_Allow_Origin="*",
    )  # fmt: skip
    token = issued()
    headers = bearer(
        token, describe="True", explain="True", url_path="x", Connection="keep-alive, X-Hop",
        X_Hop="1", X_Forwarded_For="1.2.3.4", Cookie="a=b", Inference_Header_Content_Length="7",
        Content_Type="application/octet-stream", isplit_label_token="secret",
        isplit_device_token="isplit1.forged.x", TE="trailers", Upgrade="h2c",
    )  # fmt: skip
    answer = requests.post(f"{forward().url}/predictions/toy", b"body", headers=headers, timeout=60)
    (seen,) = server.state.seen
    assert seen.body == b"body"
    names = {name.lower(): value for name, value in seen.headers.items()}
    assert names.pop("host") == server.url.removeprefix("http://")
    assert names == {
        "authorization": f"Bearer {server.state.token}",
        "content-length": "4",
        "content-type": "application/octet-stream",
        "inference-header-content-length": "7",
        "isplit-label-token": "secret",
        DEVICE_HEADER: token,
    }
    passed = {name.lower() for name in answer.headers}
    assert {"inference-header-content-length", "x-request-id", "isplit-new"} <= passed
    assert not {"set-cookie", "access-control-allow-origin"} & passed
    assert answer.headers["Server"] == "isplit"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (
            409,
            b'{"error": "another network", "code": "network_mismatch", "details": {"tail": "f"}}',
        ),
        (400, b'{"error": "InvalidKeyException", "code": "malformed_request"}'),
        (413, b""),
        (
            404,
            b'{"code": 404, "type": "ModelNotFoundException", "message": "Model not found: toy"}',
        ),
        (507, b'{"code": 507, "type": "InternalServerException", "message": "Worker died."}'),
    ],
)
def test_error_bodies_pass_byte_for_byte(
    server: Server, forward: Forward, issued: Issue, status: int, body: bytes
) -> None:
    server.state.always = answering(status, body, Content_Type="application/json")
    answer = requests.put(
        f"{forward().url}/predictions/toy", b"x", headers=bearer(issued()), timeout=60
    )
    assert (answer.status_code, answer.content) == (status, body)
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_stream_in_both_directions(
    server: Server, forward: Forward, issued: Issue, chunked: bool
) -> None:
    body = bytes(range(256)) * 4096 * 12
    server.state.always = lambda handler: handler.answer(200, server.state.seen[-1].body, {})
    pieces = (body[start : start + 100_000] for start in range(0, len(body), 100_000))
    answer = requests.post(
        f"{forward().url}/predictions/toy",
        data=pieces if chunked else body,
        headers=bearer(issued()),
        timeout=60,
    )
    assert answer.content == body
    seen = server.state.seen[-1].headers
    assert ("Content-Length" in seen, "Transfer-Encoding" in seen) == (not chunked, chunked)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_refused(
    server: Server, forward: Forward, issued: Issue, chunked: bool
) -> None:
    body = b"x" * 400_000
    url = forward(max_body=300_000).url
    answer = requests.post(
        f"{url}/predictions/toy",
        data=iter([body]) if chunked else body,
        headers=bearer(issued()),
        timeout=60,
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "at most 300000 bytes, got 400000" in answer.json()["error"]
    assert not server.state.seen
    transport = Transport(url, token=issued())
    with pytest.raises(WireSizeError, match="at most 262144"):
        transport.post("/predictions/isplit", b" " * 262_145, {})
    transport.close()


def test_other_models_do_not_pass(server: Server, forward: Forward, issued: Issue) -> None:
    transport = Transport(forward().url, token=issued())
    for call in (
        lambda: transport.post("/predictions/other", b"x", {}),
        lambda: transport.post("/predictions/isplit", b'{"model": "other"}', {}),
        lambda: transport.post("/predictions/isplit", b'{"model": ["toy"]}', {}),
        lambda: transport.post("/predictions/isplit", b'{"model": "toy", "model": "other"}', {}),
        lambda: transport.get("/predictions/isplit/1.0/recommendations/other"),
        lambda: transport.get("/predictions/isplit/1.0/models"),
    ):
        with pytest.raises(UnknownModelError, match="known: toy"):
            call()
    assert transport.get("/predictions/isplit/1.0/help")
    transport.close()
    assert len(server.state.seen) == 1


def test_a_restarted_torchserve(
    server: Server,
    forward: Forward,
    issued: Issue,
    key_file: Path,
    connect: Callable[..., SplitClient],
) -> None:
    client = connect(url=forward().url, device_token=issued())
    client.predict(photo(0, 200, 0))
    server.state.token = "another"
    write_key(key_file, "another")
    assert client.predict(photo(0, 200, 0)).label == "green"
    assert len(server.state.seen) == 2


def test_a_refused_token_is_read_again_and_the_request_sent_again(
    server: Server, forward: Forward, issued: Issue, key_file: Path
) -> None:
    refused = torchserve_error(400, "InvalidKeyException", "Token Authorization failed.")
    server.state.faults.append(refused)
    url = f"{forward().url}/predictions/toy"
    assert requests.post(url, b"x", headers=bearer(issued()), timeout=60).status_code == 400
    first, second = server.state.seen
    assert first.body == second.body == b"x"
    server.state.faults += [refused, refused]
    answer = requests.post(url, b"x", headers=bearer(issued()), timeout=60)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "TorchServe refused the forwarder's token" in answer.json()["error"]
    server.state.faults.append(refused)
    large = requests.post(url, b"x" * 300_000, headers=bearer(issued()), timeout=60)
    assert (large.status_code, large.json()["code"]) == (503, "unavailable")


def test_no_key_file_yet(server: Server, forward: Forward, issued: Issue, tmp_path: Path) -> None:
    late = tmp_path / "late.json"
    url = f"{forward(key_file=late).url}/predictions/isplit/1.0/help"
    answer = requests.get(url, headers=bearer(issued()), timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    late.write_text('{"inference": {"ke')
    assert requests.get(url, headers=bearer(issued()), timeout=60).status_code == 503
    write_key(late, server.state.token or "")
    assert requests.get(url, headers=bearer(issued()), timeout=60).status_code == 200


def test_torchserve_without_tokens(server: Server, forward: Forward, issued: Issue) -> None:
    server.state.token = None
    url = f"{forward(key_file=None).url}/predictions/isplit/1.0/help"
    assert requests.get(url, headers=bearer(issued()), timeout=60).status_code == 200
    assert "Authorization" not in server.state.seen[0].headers


def test_the_client_tries_again_while_torchserve_is_away(
    server: Server, forward: Forward, issued: Issue, connect: Callable[..., SplitClient]
) -> None:
    server.state.faults += [reset, BUSY]
    client = connect(url=forward().url, device_token=issued())
    assert client.predict(photo(0, 0, 200)).label == "blue"
    assert len(server.state.seen) == 3
    gone = forward(url="http://127.0.0.1:9").url
    with pytest.raises(ServerUnavailableError, match="TorchServe does not answer") as caught:
        connect(url=gone, device_token=issued(), retries=0).predict(photo(0, 0, 200))
    assert caught.value.details == {"retry_after_s": 1}
    started = connect(url=gone, device_token=issued(), retries=1, local_fallback=True)
    assert started.predict(photo(0, 0, 200)).split_point == "output"


def _half_of_a_large_answer(handler: Handler) -> None:
    handler.answer(200, b"x" * 300_000, {"Content-Length": "600000"})
    handler.close_connection = True


def test_an_answer_that_does_not_come_or_breaks_off(
    server: Server, forward: Forward, issued: Issue
) -> None:
    forwarder = forward(answer_s=0.2)
    transport = Transport(forwarder.url, token=issued(), retries=2)
    server.state.always = hang
    with pytest.raises(ServerTimeoutError, match=r"TorchServe did not answer within 0\.2 s"):
        transport.post("/predictions/toy", b"x", {})
    assert len(server.state.seen) == 1  # TorchServe may be working on it
    server.state.always = truncated
    with pytest.raises(ServerUnavailableError, match="broke off"):
        transport.post("/predictions/toy", b"x", {})
    server.state.always = _half_of_a_large_answer
    with pytest.raises(ServerUnavailableError, match="broke off"):
        transport.post("/predictions/toy", b"x", {})
    transport.close()


def test_health_needs_no_token(server: Server, forward: Forward) -> None:
    server.state.always = answering(200, b'{"status": "Healthy"}')
    started = time.monotonic()
    answer = requests.get(f"{forward().url}/ping", timeout=60)
    assert (answer.status_code, answer.json()) == (200, {"status": "Healthy"})
    url = forward().url
    assert all(requests.get(f"{url}/ping", timeout=60).status_code == 200 for _ in range(10))
    # Strangers may ask: each forwarder asks TorchServe once a second.
    assert len(server.state.seen) <= 4 + time.monotonic() - started
    away = requests.get(f"{forward(url='http://127.0.0.1:9').url}/ping", timeout=60)
    assert (away.status_code, away.json()["code"]) == (503, "unavailable")


def test_requests_of_one_device_are_bounded(
    server: Server, forward: Forward, issued: Issue
) -> None:
    forwarder = forward(rate=0.001, burst=2.0)
    url = f"{forwarder.url}/predictions/isplit/1.0/help"
    statuses = [
        requests.get(url, headers=bearer(issued()), timeout=60).status_code for _ in range(3)
    ]
    assert statuses == [200, 200, 429]
    refused = requests.get(url, headers=bearer(issued()), timeout=60)
    assert refused.json()["code"] == "rate_limited"
    details = refused.json()["details"]
    assert details["rate"] == 0.001
    assert refused.headers["Retry-After"] == str(details["retry_after_s"])
    assert 700 < details["retry_after_s"] <= 1000
    assert requests.get(url, headers=bearer(issued("other")), timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("limit", "code", "other"),
    [("requests_per_device", 429, "phone-1"), ("requests", 503, "phone-2")],
)
def test_requests_at_the_same_time_are_bounded(  # noqa: PLR0917
    server: Server, forward: Forward, issued: Issue, limit: str, code: int, other: str
) -> None:
    forwarder = forward(**{limit: 1})
    server.state.always = hang
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(_post(forwarder, issued())))
    thread.start()
    until(lambda: server.state.seen)
    assert _post(forwarder, issued(other)) == code
    server.state.stop.set()
    thread.join()
    server.state.always = None
    until(lambda: _post(forwarder, issued()) == 400)


def _post(forwarder: Forwarder, token: str) -> int:
    return requests.post(
        f"{forwarder.url}/predictions/toy", b"x", headers=bearer(token), timeout=60
    ).status_code


def test_a_busy_forwarder_is_busy_for_the_client() -> None:
    from isplit_plugin.errors import RateLimitError, from_json

    error = from_json({"error": "x", "code": "rate_limited"}, status=429)
    assert isinstance(error, RateLimitError)
    assert isinstance(error, ServerBusyError)
