"""What is left of the agreement when packets of a request are lost and not sent again, as on UDP.

A packet carries 1,400 bytes, and each is lost independently. What a lost packet costs depends on
the codec:

- Plain codecs (``fp32``, ``fp16``, ``uint8``) write one value after the other: a lost packet takes
  its own values with it, and the server reads zeros there. This is measured: the tail runs on it.
- All others compress, photos included. A decoder cannot go on behind a gap, and nothing is left
  without all packets: the answer counts as wrong. This follows from bytes and agreement.

The head of the message, with shapes and scales, is taken to arrive; a protocol would repeat it
(compare Capogrosso et al., "Split-Et-Impera", *DDECS* 2023).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import DataError, WireError
from ..schema import Cut, FloatArray
from ..wire import codings, decode_activation, encode_activation, is_plain
from .samples import Samples

__all__ = ["PACKET_BYTES", "LossMeter", "check_losses"]

PACKET_BYTES: Final = 1400


def check_losses(losses: Sequence[float]) -> tuple[float, ...]:
    """Shares of packets that are lost, ascending. Raises DataError beyond 0 to 1."""
    for loss in losses:
        if not 0 < loss < 1:
            raise DataError(f"loss: expected shares of packets between 0 and 1, got {loss}")
    return tuple(sorted(set(losses)))


class LossMeter:
    """Measures agreement under one loss rate, batch by batch.

    Parameters:
        loss: the share of packets that is lost.
        tails: split point -> network from the activation there to the scores.
        codecs: the codecs and codings to measure; those that compress are left to
            :meth:`agreement`.
        channel_axes: split point -> channel axis, counted with the batch (default 1).

    Attributes:
        samples: of plain codecs, whether each image agrees; nothing else is filled in.

    Raises UnknownCodecError.
    """

    def __init__(
        self,
        loss: float,
        tails: Mapping[str, nn.Module],
        codecs: Sequence[str],
        channel_axes: Mapping[str, int],
    ) -> None:
        self.loss = loss
        self.samples: dict[Cut, Samples] = {}
        self._tails = tails
        self._codings = [coding for coding in codings(codecs) if is_plain(coding)]
        self._channel_axes = channel_axes

    def add_activations(
        self,
        split_point: str,
        activations: Tensor,
        top: npt.NDArray[np.int64],
        numbers: Sequence[int],
    ) -> None:
        """Measure every plain codec on one batch.

        Parameters:
            activations: (N, ...). top: (N,), the full network's top-1 classes.
            numbers: (N,), of the photos; which packets are lost depends on them alone.
        """
        exact = np.ascontiguousarray(activations.float().cpu().numpy())
        for coding in self._codings:
            cut = Cut.of(split_point, coding)
            received = np.stack(
                [
                    self._received(item, cut, number)
                    for item, number in zip(exact, numbers, strict=True)
                ]
            )
            with torch.inference_mode():
                scores = self._tails[split_point](torch.from_numpy(received).to(activations))
            hits = np.equal(scores.argmax(dim=1).cpu().numpy(), top)
            missing = [bool(np.isnan(item).any()) for item in received]
            samples = self.samples.setdefault(cut, Samples())
            for hit, is_missing in zip(hits.tolist(), missing, strict=True):
                samples.skip()
                samples.agrees[-1] = math.nan if is_missing else float(hit)

    def agreement(self, cut: Cut, samples: Samples | None) -> float:
        """The expected agreement of a cut; ``samples``: as it is without loss.

        They are ``None`` at `output`, where nothing is sent. NaN without any image.
        """
        if samples is None:
            return 1.0
        if cut in self.samples:
            return _mean(np.array(self.samples[cut].agrees))
        packets = np.ceil(np.array(samples.nbytes) / PACKET_BYTES)
        return _mean(np.array(samples.agrees) * (1 - self.loss) ** packets)

    def _received(self, item: FloatArray, cut: Cut, number: int) -> FloatArray:
        """What the server reads of an activation (...); NaN if the codec cannot carry it."""
        axis = self._channel_axes.get(cut.split_point, 1)
        try:
            tensor = encode_activation(item[None], cut.coding, channel_axis=axis)
            decoded = decode_activation(tensor, shape=item.shape, max_batch=1)[0]
        except WireError:  # the activation is not finite
            return np.full_like(item, np.nan)
        values_of_packet = max(PACKET_BYTES * item.size // tensor.nbytes, 1)
        packets = -(-item.size // values_of_packet)
        seed = [number, zlib.crc32(str(cut).encode()), round(self.loss * 1e9)]
        is_lost = np.random.default_rng(seed).random(packets) < self.loss
        lost_values = np.repeat(is_lost, values_of_packet)[: item.size].reshape(item.shape)
        return np.where(lost_values, np.float32(0), decoded)


def _mean(values: npt.NDArray[np.float64]) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan
