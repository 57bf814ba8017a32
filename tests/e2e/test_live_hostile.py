"""What a hostile or careless client sends costs it an error, and nobody else anything."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
import requests
import torch
from toys.live_server import Live
from toys.polling import until
from toys.serving import head_of, scores_of, tensor_request, whole

from isplit_plugin.wire import HEADER, http_headers


def _works(live: Live) -> None:
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    request = tensor_request(
        head_of(live.toy.net, "relu2", x),
        "relu2",
        network_hash=live.toy.manifest.network_hash,
        scores=True,
    )
    scores = scores_of(live.predict("toy", request))
    np.testing.assert_allclose(scores, whole(live.toy.net, x), rtol=0, atol=1e-5)


@pytest.fixture
def alive(live: Live) -> Iterator[None]:
    """The worker that answers before a test answers after it."""
    before = live.worker_pids("toy")
    yield
    _works(live)
    assert live.worker_pids("toy") == before


@pytest.mark.usefixtures("alive")
@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"\x00\x01\x02", {}, "malformed_request"),
        (b"", {}, "malformed_request"),
        (np.random.default_rng(1).bytes(100_000), {HEADER: "64"}, "malformed_request"),
        (b"{}", {HEADER: "99999999999999999999"}, "malformed_request"),
        (b"{" * 50_000, {"Content-Type": "application/json"}, "malformed_request"),
        (b'{"inputs": NaN}', {"Content-Type": "application/json"}, "malformed_request"),
        (b"\xff\xd8\xff" + b"\x00" * 5000, {"Content-Type": "image/jpeg"}, "not_an_image"),
        (b"hello", {"Content-Type": "text/plain"}, "malformed_request"),
        (
            "\xff\xfe".encode("latin-1"),
            {"Content-Type": "text/plain; charset=utf-8"},
            "malformed_request",
        ),
        (b"a=1&b=2", {"Content-Type": "application/x-www-form-urlencoded"}, "malformed_request"),
    ],
)
def test_a_body_that_is_no_request(
    live: Live, body: bytes, headers: dict[str, str], code: str
) -> None:
    answer = live.post("predictions/toy", body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert "Traceback" not in answer.text


@pytest.mark.usefixtures("alive")
def test_a_truncated_tensor(live: Live) -> None:
    values = head_of(live.toy.net, "relu1", torch.zeros(1, 3, 16, 16))
    body, length = tensor_request(
        values, "relu1", network_hash=live.toy.manifest.network_hash
    ).encode()
    for end in (1, 4, len(body) // 2, len(body) - 1):
        answer = live.post("predictions/toy", body[:end], headers=http_headers(length))
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")


@pytest.mark.usefixtures("alive")
def test_a_connection_that_ends_within_the_body(live: Live) -> None:
    parts = urlsplit(live.server.inference_url)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as raw:
        head = f"POST /predictions/toy HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.server.token()}\r\n"
        raw.sendall(head.encode() + b"Content-Length: 5000\r\n\r\n{")


@pytest.mark.usefixtures("alive")
def test_slow_bodies_occupy_no_worker(live: Live) -> None:
    """TorchServe hands a request over when its body is complete. Closing slow ones is a proxy's."""
    parts = urlsplit(live.server.inference_url)
    head = (
        "POST /predictions/toy HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {live.server.token()}\r\nContent-Length: 5000\r\n\r\n"
    ).encode()
    with ExitStack() as stack:
        for _ in range(40):
            raw = socket.create_connection((parts.hostname, parts.port), timeout=60)
            stack.enter_context(raw)
            raw.sendall(head)
        for connection in range(3):
            raw.sendall(b"{" * (1 + connection))
            _works(live)


@pytest.mark.usefixtures("alive")
@pytest.mark.parametrize(
    "lines",
    [
        b"X-Odd: \xff\xfe\x80",
        b"body: \xc3\x28",
        b"Content-Type: \xff/\xff",
        b"content-type: application/json\r\nContent-Type: image/jpeg",
        b"Inference-Header-Content-Length: \xd9\xa3",
        b"describe: true\r\nexplain: yes",
        b"Content-Type: multipart/form-data; boundary=x",
        b"Content-Encoding: gzip",
    ],
)
def test_odd_headers(live: Live, lines: bytes) -> None:
    parts = urlsplit(live.server.inference_url)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as raw:
        head = f"POST /predictions/toy HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.server.token()}\r\n"
        raw.sendall(
            head.encode() + lines + b"\r\nContent-Length: 7\r\nConnection: close\r\n\r\nabcdefg"
        )
        answer = raw.recv(4096)
    status = int(answer.split(b" ", 2)[1])
    assert 400 <= status < 500, answer


@pytest.mark.usefixtures("alive")
def test_no_body_at_all(live: Live) -> None:
    answer = live.get("predictions/toy")
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    form = live.post("predictions/toy", files={"photo": b"abc"})
    assert (form.status_code, form.json()["code"]) == (400, "malformed_request")


@pytest.mark.usefixtures("alive")
def test_a_head_of_another_network(live: Live) -> None:
    values = head_of(live.toy.net, "relu1", torch.zeros(1, 3, 16, 16))
    answer = live.send("toy", tensor_request(values, "relu1", network_hash="f" * 64))
    assert (answer.status_code, answer.json()["code"]) == (409, "network_mismatch")
    assert answer.json()["details"] == {"head": "f" * 16, "tail": live.toy.manifest.network_hash}


@pytest.mark.usefixtures("alive")
def test_a_body_beyond_the_servers_limit_is_413_without_a_body(live: Live) -> None:
    answer = live.post("predictions/toy", b"\x00" * (32 * 1024 * 1024 + 1))
    assert (answer.status_code, answer.content) == (413, b"")


@pytest.mark.usefixtures("alive")
def test_compressed_gigabytes(live: Live) -> None:
    values = np.zeros((64, 4, 8, 8), np.float32)
    body, length = tensor_request(
        values, "relu1", "uint8+zstd", network_hash=live.toy.manifest.network_hash
    ).encode()
    assert length is not None
    head = json.loads(body[:length])
    head["inputs"][0]["parameters"]["isplit_shape"] = "1000000000,4,8,8"
    raw = json.dumps(head).encode()
    answer = live.post("predictions/toy", raw + body[length:], headers=http_headers(len(raw)))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.usefixtures("alive")
def test_header_lines_cannot_be_forged_through_names(live: Live) -> None:
    forged = "x\r\nSet-Cookie: a=b\n[METRICS]isplit_requests_total.Count:1000|#ModelName:forged"
    values = head_of(live.toy.net, "relu1", torch.zeros(1, 3, 16, 16))
    for request in (
        tensor_request(values, "relu1", network_hash=live.toy.manifest.network_hash, id=forged),
        tensor_request(values, forged, network_hash=live.toy.manifest.network_hash),
    ):
        answer = live.send("toy", request)
        assert "Set-Cookie" not in answer.headers
    assert (
        'ModelName="forged"'
        not in requests.get(f"{live.server.metrics_url}/metrics", timeout=60).text
    )


def _bare(live: Live, line: str, headers: Sequence[tuple[str, str]] = ()) -> tuple[int, bytes]:
    """Status and body of the answer to a request without a body. A header may come twice."""
    method, path = line.split(" ")
    parts = urlsplit(live.server.inference_url)
    with contextlib.closing(http.client.HTTPConnection(parts.netloc, timeout=60)) as connection:
        connection.putrequest(method, path)
        for name, value in (*headers, ("Authorization", f"Bearer {live.server.token()}")):
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.usefixtures("alive")
def test_log_lines_cannot_be_forged_through_a_path(live: Live) -> None:
    forged = "2026-01-01T00:00:00,000 [INFO ] W-9000-toy_1.0-stdout MODEL_LOG - forged"
    path = quote(f"/predictions/toy/1.0/\n{forged}\r{forged}\x1b[31m\x85{forged}\u2028{forged}")
    before = live.server.log_path.stat().st_size

    def logged() -> str:
        with live.server.log_path.open("rb") as log:
            log.seek(before)
            return log.read().decode()

    for _ in range(3):
        assert _bare(live, f"GET {path}")[0] == 403
    until(lambda: logged().count("IllegalArgumentException") == 3)
    assert not [line for line in logged().splitlines() if line.startswith(forged)]
    assert "\x1b" not in logged()
    assert len(logged()) < 3 * 1000


_ASKS = [
    "GET /predictions/{}",
    "POST /predictions/{}/1.0",
    "GET /predictions/{}/1.0/models",
    "GET /explanations/{}",
    "POST /explanations/{}/1.0",
    "GET /models/{}/invoke",
    "POST /models/{}/invoke",
    "POST /invocations?model_name={}",
    "GET /{}/predict",
    "GET /{}/1.0/predict",
    "POST /v1/models/{}:predict",
    "POST /v1/models/{}:explain",
    "POST /v2/models/{}/infer",
    "POST /v2/models/{}/versions/1.0/infer",
    "POST /v2/models/{}/explain",
]
_FORM = ("Content-Type", "application/x-www-form-urlencoded")
_CONTENT_TYPES: list[list[tuple[str, str]]] = [
    [],
    [_FORM],
    [("Content-Type", "multipart/form-data; boundary=x")],
    # TorchServe's frontend reads the first, and the worker gets the last.
    [_FORM, ("Content-Type", "text/plain")],
]


@pytest.mark.usefixtures("alive")
@pytest.mark.parametrize("model", ["toy", "isplit"])
def test_only_the_management_port_answers_a_describe_call(live: Live, model: str) -> None:
    for ask in _ASKS:
        for content_type in _CONTENT_TYPES:
            for name in ("describe", "Describe"):
                status, answer = _bare(live, ask.format(model), [(name, "True"), *content_type])
                assert status != 500
                for counter in (b'"served"', b'"statistics"', b'"answers"', b'"cached"'):
                    assert counter not in answer, (ask, content_type)
    (described,) = live.server.describe(model)
    assert {"served", "answers"} & described.keys()


@pytest.mark.usefixtures("alive")
def test_an_expired_token_is_refused_and_a_renewed_one_works(live: Live) -> None:
    old = live.server.token()
    new = live.server.renew_token()
    assert old != new
    url = f"{live.server.inference_url}/predictions/toy"
    refused = requests.post(url, b"x", headers={"Authorization": f"Bearer {old}"}, timeout=60)
    assert refused.status_code == 400
    assert "InvalidKeyException" in refused.text
    assert requests.post(url, b"x", timeout=60).status_code == 400
    known = requests.post(url, b"x", headers={"Authorization": f"Bearer {new}"}, timeout=60)
    assert known.json()["code"] == "malformed_request"
    assert live.server.token() == new


def test_no_token_is_logged(live: Live) -> None:
    live.post("predictions/toy", b"broken")
    log = live.server.log_path.read_text()
    for kind in ("inference", "management"):
        assert live.server.token(kind) not in log


def test_a_killed_worker_comes_back(live: Live) -> None:
    (before,) = live.worker_pids("toy")
    os.kill(before, signal.SIGKILL)

    def back() -> bool:
        status = live.server.status("toy")
        return status.ready and before not in status.pids

    until(back)
    _works(live)
