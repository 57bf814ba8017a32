"""Bytes, agreement and accuracy of a code, against an independent loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys.bottleneck import toy_network

from isplit_plugin.bottleneck import Bottleneck, CodeMeasurement, Photos, measure_codes
from isplit_plugin.errors import UnknownCodecError
from isplit_plugin.schema import Cut
from isplit_plugin.wire import decode_activation, encode_activation, request_bytes

CODECS = ("uint8", "q2+zstd", "q2+rle+zstd", "q3+zstd")


@pytest.fixture(scope="module")
def measurements(bottlenecks: list[Bottleneck], test_photos: Photos) -> dict[str, CodeMeasurement]:
    # In one call: codecs that decode to the same values share one run of the tail.
    measurements = measure_codes(toy_network(), bottlenecks[0], test_photos, codecs=CODECS)
    return {measurement.codec: measurement for measurement in measurements}


@pytest.mark.parametrize("codec", CODECS)
def test_measurements_equal_an_independent_loop(
    bottlenecks: list[Bottleneck],
    test_photos: Photos,
    measurements: dict[str, CodeMeasurement],
    codec: str,
) -> None:
    net, bottleneck = toy_network(), bottlenecks[0]
    head, tail = net.bisect("0")
    sizes = []
    expected = {name: np.zeros(3, dtype=int) for name in ("images", "agreeing")}
    expected |= {name: np.zeros(3, dtype=int) for name in ("labelled", "correct")}
    with torch.inference_mode():
        for row in range(len(test_photos)):
            x = test_photos.tensor([row])
            tensor = encode_activation(bottleneck.encoder(head(x)).numpy(), codec)
            decoded = torch.from_numpy(decode_activation(tensor, shape=bottleneck.code_shape))
            answer = int(tail(bottleneck.decoder(decoded)).argmax())
            full = int(net.model(x).argmax())
            label = int(test_photos.labels[row])
            sizes.append(request_bytes(Cut.of(bottleneck.deployed_name, codec), tensor))
            expected["images"][full] += 1
            expected["agreeing"][full] += answer == full
            expected["labelled"][label] += 1
            expected["correct"][label] += answer == label
    measurement = measurements[codec]
    # Alone and in a batch, the last digit of a scale may differ.
    assert measurement.nbytes == pytest.approx(np.mean(sizes), abs=0.2)
    for name, counts in expected.items():
        assert getattr(measurement, name).tolist() == counts.tolist(), name
    assert measurement.accuracy == pytest.approx(expected["correct"].sum() / 36)
    assert measurement.agreement == pytest.approx(expected["agreeing"].sum() / 36)


def test_unknown_codecs_are_refused(bottlenecks: list[Bottleneck], test_photos: Photos) -> None:
    with pytest.raises(UnknownCodecError, match="q99"):
        measure_codes(toy_network(), bottlenecks[0], test_photos, codecs=["q99"])
