"""Targets: what reaches the server besides predictions.

Questions, labels and reports of probes go through a real :class:`Endpoint` on a real SQLite store,
so that what the store is asked is covered too. The endpoint answers whatever happens: a target
fails where the answer is "internal", the code of an error that nobody expected.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from toys import advice as toys
from toys.context import Context

from isplit_plugin.device_tokens import issue, new_secret, peek, read_secret, verify
from isplit_plugin.errors import IsplitError, TokenError
from isplit_plugin.probing.tickets import Ticket
from isplit_plugin.schema import Cut, Observation
from isplit_plugin.serving.endpoint import Endpoint
from isplit_plugin.serving.endpoint.question import TOPICS
from isplit_plugin.traffic import Delta, Store

from .target import Target

SECRET: Final = b"0123456789abcdef"
ISSUED: Final = 1e9
"""When the target `device-token` lives: its token is the same in every run."""
REQUESTS: Final = 40
"""Requests that the store knows, so that labels find some."""

_FIELDS: Final = (
    *("model", "version", "classes", "group", "rule", "candidate_set", "predictor", "mix"),
    *("constraints", "bandwidth_mbps", "rtt_ms", "max_latency_ms", "max_bytes", "max_head_macs"),
    *("accuracy_tolerance", "objective", "device_slowdown", "latency", "bytes", "uniform", "live"),
    *("local-maxima", "global-maximum", "blocks", "all", "cui", "depth", "toy", "1.0", *TOPICS),
)


class Unexpected(Exception):  # noqa: N818 - its name is what the table of crashes shows
    """The endpoint answered with the code of an error that nobody expected."""


class Server:
    """A real endpoint on a store with one network, some requests and both secrets."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="isplit-fuzz-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.errors = _ErrorLog()
        logging.getLogger("isplit_plugin").addHandler(self.errors)
        logging.getLogger("isplit_plugin").propagate = False
        labels = new_secret(self.folder / "labels.secret")
        operators = self.folder / "operator.secret"
        operators.write_bytes(SECRET)
        operators.chmod(0o600)
        self.label_secret = read_secret(labels).decode()
        path = self.folder / "store.db"
        with Store(path) as store:
            store.put_network(toys.manifest(), toys.profile())
            delta = Delta(store.mean0(toys.HASH), store.half_life_s, 3, keep_requests=True)
            for number in range(REQUESTS):
                delta.add_observation(_observation(number))
            store.add(toys.HASH, delta)
        section = {
            "store": f"sqlite:///{path}",
            "secret_file": str(operators),
            "label_secret_file": str(labels),
        }
        self._config = {"isplit": section}
        self._endpoint = Endpoint(Context(config=self._config))

    def ask(self, row: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
        """The JSON of the answer. Raises Unexpected."""
        context = Context(headers, config=self._config)
        (text,) = self._endpoint.handle([row], context)
        answer = json.loads(text)
        if context.status != 200 and answer["code"] == IsplitError.code:
            raise Unexpected(self.errors.last)
        return answer


class _ErrorLog(logging.Handler):
    """Remembers the last line of the log."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()


@cache
def server() -> Server:
    """The endpoint of this process."""
    return Server()


def _observation(number: int) -> Observation:
    return Observation(
        request_id=f"r{number}",
        cut=Cut("b", "uint8"),
        class_id=number % 3,
        confidence=0.9,
        bytes_received=500,
        decode_ms=0.2,
        tail_ms=8.0,
        at=time.time(),
    )


# ------------------------------------------------------------------------ questions

# A case is the JSON body, a null byte and the path; without a null byte it is the path alone, or,
# where it begins with "?", a query string.


def _question(case: bytes) -> None:
    if case.startswith(b"?"):
        row: dict[str, Any] = {}
        for field in case[1:].split(b"&"):
            name, _, value = field.partition(b"=")
            row[name.decode("latin-1")] = value
        server().ask(row, {})
        return
    body, null, path = case.partition(b"\0")
    headers = {"url_path": (path if null else case).decode("utf-8", "surrogateescape")}
    server().ask({"body": bytearray(body)} if null else {}, headers)


def _question_seeds() -> Iterator[bytes]:
    for topic in TOPICS:
        yield topic.encode()
        yield f"{topic}/toy/classes/0,1/group/all/predictor/depth/mix/uniform".encode()
    constraints = {
        "bandwidth_mbps": 2,
        "rtt_ms": 60.5,
        "max_bytes": 20000,
        "accuracy_tolerance": 0.05,
        "objective": "bytes",
        "device_slowdown": 2,
    }
    body = {"model": "toy", "version": "1.0", "classes": [0, 2], "constraints": constraints}
    yield json.dumps(body).encode() + b"\0"
    yield json.dumps({**body, "rule": "global-maximum"}).encode() + b"\0recommendations"
    yield b"?model=toy&class=0,1&bandwidth_mbps=2.5&objective=latency&group=all"


# ------------------------------------------------------------------------ labels and probes


def _label(case: bytes) -> None:
    headers = {"isplit-label-token": server().label_secret}
    server().ask({"body": bytearray(b'{"labels": ' + case + b"}")}, headers)


def _label_token(case: bytes) -> None:
    body = b'{"labels": [{"request_id": "r1", "class": 1}], "token": ' + case + b"}"
    answer = server().ask({"body": bytearray(body)}, {})
    assert "labelled" not in answer


def _label_seeds() -> Iterator[bytes]:
    labels = [{"request_id": f"r{number}", "class": number % 3} for number in range(4)]
    yield json.dumps(labels).encode()
    yield b'[{"request_id": "r9", "class": "cat"}, {"request_id": "none", "class": 0}]'


def _probe_report(case: bytes) -> None:
    server().ask({"body": bytearray(b'{"probe": ' + case + b"}")}, {})


def _probe_report_seeds() -> Iterator[bytes]:
    ticket = Ticket.new(
        cut=Cut("b", "uint8"),
        group="all",
        device=None,
        tail=np.array([1.0, 1.0, 1.0, 1.0]),
        network_hash=toys.HASH,
        class_id=1,
    )
    report = {
        "ticket": ticket.seal(SECRET),
        "values": [0.5],
        "network": toys.HASH,
        "class": 1,
        "device": issue(SECRET, "phone-1", days=1),
    }
    yield json.dumps(report).encode()


def _token(case: bytes) -> None:
    text = case.decode("utf-8", "surrogatepass")
    try:
        verify(SECRET, text, clock=lambda: ISSUED)
    except TokenError:
        peek(text)
    else:
        assert text == valid_token(), "a token that the operator never issued is accepted"


@cache
def valid_token() -> str:
    """The one token that the operator issued."""
    return issue(SECRET, "phone-1", days=1, group="north", clock=lambda: ISSUED)


def _token_seeds() -> Iterator[bytes]:
    yield valid_token().encode()
    yield b"isplit1.W10.W10"


SERVER_TARGETS: Final = (
    Target("question", "questions to the endpoint", _question, _question_seeds, (), words=_FIELDS),
    Target(
        "label",
        "labels of a back office that has the secret",
        _label,
        _label_seeds,
        (),
        words=("request_id", "class"),
    ),
    Target("label-token", "labels of somebody who has not", _label_token, lambda: [b'"guess"'], ()),
    Target(
        "probe-report",
        "a device's part of a probe",
        _probe_report,
        _probe_report_seeds,
        (),
        words=("ticket", "values", "network", "class", "device"),
    ),
    Target(
        "device-token",
        "a device token",
        _token,
        _token_seeds,
        (TokenError, UnicodeDecodeError),
        json_at=None,
        max_bytes=600,
        words=("isplit1.", "."),
    ),
)
