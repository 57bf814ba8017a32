"""A network with a bottleneck in it: its parts, exported encoder, name and description."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import onnxruntime
import pytest
import torch
from toys.bottleneck import toy_network

from isplit_plugin.bottleneck import (
    Bottleneck,
    Photos,
    bottleneck_point,
    decoder_tail,
    encoder_head,
    export_encoder,
)


def test_a_frozen_network_keeps_its_head_and_tail(
    bottlenecks: list[Bottleneck], test_photos: Photos
) -> None:
    net, bottleneck = toy_network(), bottlenecks[0]
    head, tail = net.bisect("0")
    x = test_photos.tensor(range(5))
    with torch.inference_mode():
        code = bottleneck.encoder(head(x))
        assert torch.equal(encoder_head(net, bottleneck)(x), code)
        assert torch.equal(decoder_tail(net, bottleneck)(code), tail(bottleneck.decoder(code)))


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_an_exported_encoder_computes_the_same(
    bottleneck: Bottleneck, test_photos: Photos, tmp_path: Path, format: Literal["onnx", "pt2"]
) -> None:
    net = toy_network()
    path = tmp_path / f"e.{format}"
    export_encoder(net, bottleneck, path, format=format)
    x = test_photos.tensor(range(len(test_photos)))
    with torch.inference_mode():
        expected = encoder_head(net, bottleneck)(x)
        if format == "onnx":
            session = onnxruntime.InferenceSession(path)
            code = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
        else:
            code = torch.export.load(path).module()(x)
        torch.testing.assert_close(code, expected, rtol=1e-4, atol=1e-4)
        tail = decoder_tail(net, bottleneck)
        assert torch.equal(tail(code).argmax(dim=1), tail(expected).argmax(dim=1))


def test_the_deployed_name_follows_the_weights(bottleneck: Bottleneck) -> None:
    assert bottleneck.deployed_name.startswith(f"{bottleneck.name}-")
    assert dataclasses.replace(bottleneck).deployed_name == bottleneck.deployed_name
    state = {name: t.clone() for name, t in bottleneck.autoencoder.state_dict().items()}
    try:
        with torch.no_grad():
            next(bottleneck.autoencoder.parameters()).add_(1e-6)
        assert dataclasses.replace(bottleneck).deployed_name != bottleneck.deployed_name
    finally:
        bottleneck.autoencoder.load_state_dict(state)


def test_the_description_in_a_manifest(bottlenecks: list[Bottleneck]) -> None:
    net = toy_network()
    deployed = bottleneck_point(net, bottlenecks[0])
    point = net.split_point("0")
    assert deployed.of == "0"
    assert deployed.point.shape == bottlenecks[0].code_shape == (2, 4, 5)
    assert deployed.point.nbytes == 4 * 40
    # 8 -> 1 channels at 8 x 9, 1 -> 2 at 4 x 5, with 9 multiply-accumulates each
    assert deployed.point.macs.head == point.macs.head + 9 * (8 * 72 + 2 * 20)
    assert deployed.point.macs.tail == point.macs.tail + 9 * (8 * 72 + 2 * 20)
