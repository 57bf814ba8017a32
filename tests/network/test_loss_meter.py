"""Agreement when packets are lost and not sent again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys.serving import CLASSES, PREPROCESSING, toy_network, toy_photos

from isplit_plugin.errors import DataError
from isplit_plugin.network import CapturedNetwork, profile
from isplit_plugin.network.loss_meter import PACKET_BYTES, LossMeter
from isplit_plugin.network.samples import Samples
from isplit_plugin.profile import Profile
from isplit_plugin.schema import ON_DEVICE, Cut

LOSSES = (0.05, 0.5)


@pytest.fixture(scope="module")
def net() -> CapturedNetwork:
    return toy_network()


@pytest.fixture(scope="module")
def measured(net: CapturedNetwork) -> Profile:
    return profile(
        net,
        [(photo, None) for photo in toy_photos(40)],
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        split_points=["relu1"],
        codecs=["fp32", "uint8", "uint8+zstd"],
        photos=["jpeg@90"],
        threads=1,
        losses=LOSSES,
    )


def test_every_cut_says_what_is_left_of_its_agreement(measured: Profile) -> None:
    for measurement in measured.measurements:
        assert tuple(measurement.under_loss) == LOSSES
        little, much = measurement.under_loss.values()
        assert 0 <= much <= little <= 1
    assert _cut(measured, str(ON_DEVICE)) == {0.05: 1.0, 0.5: 1.0}


def test_what_compresses_needs_all_packets(measured: Profile) -> None:
    for text in ("relu1:uint8+zstd", "input:jpeg@90"):
        measurement = measured.measurement(Cut.parse(text))
        assert measurement is not None
        assert measurement.nbytes < PACKET_BYTES  # one packet, for each photo
        assert measurement.under_loss[0.5] == pytest.approx(0.5 * measurement.agreement)


def test_what_is_plain_loses_values_only(net: CapturedNetwork, measured: Profile) -> None:
    """A toy activation is one packet: what is left without it is what the tail makes of zeros."""
    tail = net.bisect("relu1")[1]
    with torch.inference_mode():
        of_nothing = int(tail(torch.zeros(1, 4, 8, 8)).argmax())
    row = list(measured.class_ids).index(of_nothing)
    expected = 0.5 + 0.5 * measured.count[row] / measured.count.sum()
    assert _cut(measured, "relu1:uint8")[0.5] == pytest.approx(expected, abs=0.25)
    assert _cut(measured, "relu1:uint8")[0.5] > _cut(measured, "relu1:uint8+zstd")[0.5]


def test_values_of_lost_packets_are_zeros_and_others_stay() -> None:
    kept: list[np.ndarray] = []

    class Tail(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept.append(x.numpy().copy())
            return x.flatten(1)

    meter = LossMeter(0.4, {"a": Tail()}, ["fp32", "fp16", "dct"], {"a": 1})
    values = torch.rand(3, 8, 50, 50) + 1
    meter.add_activations("a", values, np.zeros(3, np.int64), [0, 1, 2])
    assert set(meter.samples) == {Cut("a", "fp32"), Cut("a", "fp16")}
    for received, size in zip(kept, (4, 2), strict=True):
        for item, exact in zip(received, values.numpy(), strict=True):
            packets = np.array_split(
                item.ravel(), range(PACKET_BYTES // size, item.size, PACKET_BYTES // size)
            )
            lost = [not packet.any() for packet in packets]
            assert all(packet.all() for packet in packets if packet.any())  # whole packets
            assert 0 < np.mean(lost) < 1
            np.testing.assert_allclose(item[item != 0], exact[item != 0], rtol=1e-3)
    again = LossMeter(0.4, {"a": Tail()}, ["fp32"], {"a": 1})
    again.add_activations("a", values[2:], np.zeros(1, np.int64), [2])
    np.testing.assert_array_equal(kept[2][0], kept[0][2])  # the same in any batch


def test_several_packets_must_all_arrive() -> None:
    samples = Samples()
    for nbytes in (1400, 1401, 4201):
        samples.add(nbytes, 0, 0)
        samples.agrees.append(1.0)
    meter = LossMeter(0.1, {}, [], {})
    expected = np.mean([0.9, 0.9**2, 0.9**4])
    assert meter.agreement(Cut("a", "uint8+zstd"), samples) == pytest.approx(expected)


def test_the_file_of_a_profile_holds_it(measured: Profile) -> None:
    again = Profile.from_bytes(measured.to_bytes())
    assert [m.under_loss for m in again.measurements] == [
        m.under_loss for m in measured.measurements
    ]


@pytest.mark.parametrize("loss", [0.0, 1.0, -0.1, float("nan")])
def test_losses_that_are_none(net: CapturedNetwork, loss: float) -> None:
    with pytest.raises(DataError, match="loss: expected shares of packets between 0 and 1"):
        profile(net, [], preprocessing=PREPROCESSING, classes=CLASSES, losses=[loss])


def _cut(measured: Profile, text: str) -> dict[float, float]:
    measurement = measured.measurement(Cut.parse(text))
    assert measurement is not None
    return dict(measurement.under_loss)
