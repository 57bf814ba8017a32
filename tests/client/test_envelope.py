"""What a request costs beside its tensor: little, and what was promised is what is sent."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from toys.client import Server, photo

from isplit_plugin.client import SplitClient
from isplit_plugin.schema import INPUT, Cut
from isplit_plugin.wire import TailRequest, Tensor, encode_activation, request_bytes

GREEN = photo(51, 204, 0)  # doubled and pooled: 0.4, 1.6, 0; scores 0.4, 3.2, 0, -1.5
Connect = Callable[..., SplitClient]
_SLACK = 8
"""Bytes by which the digits of the measured times may differ."""
CODE = encode_activation(np.ones((1, 24, 7, 7), np.float32), "q4c+zstd")


def _promised(client: SplitClient, cut: Cut, tensor: Tensor) -> int:
    """The promise for the toy's network hash, which is shorter than a real one."""
    assert client.manifest is not None
    return request_bytes(cut, tensor) - max(0, 16 - len(client.manifest.network_hash))


@pytest.mark.parametrize("cut", ["input:jpeg@90", "input:file", "input:fp32"])
def test_what_is_promised_is_sent_at_input(connect: Connect, cut: str) -> None:
    client = connect(raw_scores=False)
    parsed = Cut.parse(cut)
    tensor = client._local.encode([GREEN], parsed).tensor
    sent = client.predict(GREEN, parsed).bytes_sent
    assert abs(sent - _promised(client, parsed, tensor)) <= _SLACK


def test_what_is_promised_is_sent_at_every_cut(connect: Connect) -> None:
    client = connect(raw_scores=False)
    assert client.manifest is not None
    cuts = [
        Cut.of(name, codec) for name in client.manifest.deployed for codec in client.manifest.codecs
    ]
    assert cuts
    for cut in cuts:
        tensor = client._local.encode([GREEN], cut).tensor
        sent = client.predict(GREEN, cut).bytes_sent
        assert abs(sent - _promised(client, cut, tensor)) <= _SLACK, cut
        assert sent - tensor.nbytes < 300, cut


def test_the_envelope_of_a_small_code() -> None:
    cut = Cut("_blocks.5", "q4c+zstd")
    envelope = request_bytes(cut, CODE) - CODE.nbytes
    assert envelope <= 265
    request = TailRequest(cut=cut, tensor=CODE, network_hash="0" * 64)
    body, length = request.encode()
    assert length is not None
    head = json.loads(body[:length])
    assert head["parameters"]["isplit_network"] == "0" * 16
    assert head["inputs"][0]["shape"] == [1]
    assert "isplit_shape" not in head["inputs"][0]["parameters"]
    assert body[length:] == b"".join(map(bytes, CODE.chunks()))


def test_several_items_and_stock_clients_state_the_shape() -> None:
    two = encode_activation(np.ones((2, 24, 7, 7), np.float32), "q4c+zstd")
    cut = Cut("_blocks.5", "q4c+zstd")
    for tensor, network in ((two, "0" * 64), (CODE, None)):
        body, length = TailRequest(cut=cut, tensor=tensor, network_hash=network).encode()
        assert b"isplit_shape" in body[:length]


def test_a_request_has_no_headers_that_say_nothing(connect: Connect, server: Server) -> None:
    connect(raw_scores=False).predict(GREEN, Cut(INPUT, "file"))
    headers = server.state.seen[-1].headers
    assert {name.lower() for name in headers} == {
        "host",
        "user-agent",
        "accept-encoding",
        "content-type",
        "content-length",
        "inference-header-content-length",
    }
    assert headers["User-Agent"].startswith("isplit/")
