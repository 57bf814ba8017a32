"""Refinement: a coarse first answer, and a second request where the tail is not sure of it.

``python -m benchmarks refinement --data FOLDER`` asks what that would bring with the codec ``dct``.
A photo is sent in a coarse quality. Where the margin of the answer (the probability of its first
class less that of its second) is at most a threshold, the photo is sent again in a fine quality. The
rival is one request in that fine quality. Each photo is measured with a transform that was fitted
without it. The rows say

* how often each quality disagrees, and how well the margin tells when;
* what a request with both layers takes, the fine coefficients coded by what the coarse ones say of
  them, beside the fine quality alone;
* which threshold is proven, bytes on average and the share that is sent again;
* a threshold of one half of the photos on the other half;
* mean latencies for links and devices, beside photo and whole network on the device.

``--cuts`` picks the cuts, such as ``efficientnet-lite0:_blocks.5``; with ``--resnet50`` those of
ResNet-50 can be named, too.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from isplit_plugin.network import (
    CapturedNetwork,
    FittedTransforms,
    LoadedNetwork,
    activations,
    capture,
    device_times,
    fit_transforms,
    part_times,
)
from isplit_plugin.network.refining import Proof, prove
from isplit_plugin.schema import COARSE_QUALITY, FINE_QUALITIES, OUTPUT, Cut, FloatArray
from isplit_plugin.wire import (
    QUALITIES,
    decode_activation,
    encode_activation,
    request_bytes,
)

from .harness import Row, row, table
from .layers import layer_rows
from .subjects import drawn_photos, inputs, networks, one_thread

DEFAULT_CUTS: Final[dict[str, tuple[str, ...]]] = {"efficientnet-lite0": ("_blocks.5",)}
PHOTOS: Final = 500
LAYERED_PHOTOS: Final = 100
"""How many photos the request with both layers is measured on."""
HTTP_BYTES: Final = 255
"""HTTP headers of a request, which a second one sends again."""
PHOTO_BYTES: Final = 24_000
"""The best faithful photo for EfficientNet-Lite0 (docs/explanation/codecs.md)."""
HALVES: Final = 200
LINKS: Final = (0.1, 0.3, 1.0, 3.0, 10.0)
ROUND_TRIPS: Final = (10.0, 30.0, 100.0)
SLOWDOWNS: Final = (4, 16, 64)

Array = np.ndarray


@dataclass(frozen=True)
class Answers:
    """What each photo's answer is at each quality, and what it costs.

    Attributes:
        nbytes: (N, Q), of the body of a request and its HTTP headers.
        differs: (N, Q), whether the top-1 class differs from the full network's.
        divergence: (N, Q), in nats.
        margin: (N, Q), the probability of the first class less that of the second.
        encode_ms, decode_ms: medians at the quality in the middle.
    """

    nbytes: Array
    differs: Array
    divergence: Array
    margin: Array
    encode_ms: float
    decode_ms: float


@dataclass(frozen=True)
class Plan:
    """A way to send photos.

    Attributes:
        coarse, fine: qualities; equal for one request.
        threshold: of the margin, up to which a photo is sent again.
    """

    coarse: int
    fine: int
    threshold: float = -1.0

    def again(self, answers: Answers) -> Array:
        """(N,), which photos are sent again."""
        result: Array = answers.margin[:, self.coarse] <= self.threshold
        return result

    def differs(self, answers: Answers) -> Array:
        """(N,), whether the last answer differs from the full network's."""
        fine, coarse = answers.differs[:, self.fine], answers.differs[:, self.coarse]
        return np.where(self.again(answers), fine, coarse)

    def nbytes(self, answers: Answers) -> Array:
        """(N,), of all requests."""
        result: Array = (
            answers.nbytes[:, self.coarse] + self.again(answers) * (answers.nbytes[:, self.fine])
        )
        return result


def run(quick: bool = False) -> list[Row]:
    """Rows for each cut."""
    chosen = drawn_photos(32 if quick else PHOTOS)
    rows: list[Row] = []
    if chosen:
        with one_thread():
            for network, loaded, cuts in networks(DEFAULT_CUTS):
                net = capture(loaded.model, loaded.example_input)
                for cut in cuts:
                    rows += _cut_rows(f"{network} {cut}", net, loaded, cut, chosen)
                    print(table(rows), file=sys.stderr, flush=True)
    return rows


def _cut_rows(
    label: str, net: CapturedNetwork, loaded: LoadedNetwork, cut: str, files: Sequence[Path]
) -> list[Row]:
    fits = fit_transforms(
        net,
        [(file, None) for file in files],
        preprocessing=loaded.preprocessing,
        split_points=[cut],
        threads=1,
    )
    print(f"{label}: fitted", file=sys.stderr, flush=True)
    exact, full = _activations(net, loaded, cut, files)
    answers = _answers(net, cut, exact, full, fits)
    costs = _costs(net, cut, answers)
    rows = list(_quality_rows(label, answers))
    rows += layer_rows(label, cut, exact[:LAYERED_PHOTOS], fits)
    rows += _byte_rows(label, answers)
    rows += _unseen_rows(label, answers)
    rows += costs.rows(label)
    rows += _grid_rows(label, answers, costs)
    return rows


def _activations(
    net: CapturedNetwork, loaded: LoadedNetwork, cut: str, files: Sequence[Path]
) -> tuple[FloatArray, torch.Tensor]:
    """Activations (N, ...), and the log probabilities (N, classes) of the full network."""
    values, scores = [], []
    for start in range(0, len(files), 10):
        tensors, part = activations(net, [cut], inputs(loaded, files[start : start + 10]))
        values.append(tensors[cut].numpy())
        scores.append(part)
    return np.concatenate(values), torch.log_softmax(torch.cat(scores), dim=1)


def _answers(
    net: CapturedNetwork, cut: str, exact: FloatArray, full: torch.Tensor, fits: FittedTransforms
) -> Answers:
    tail = net.bisect(cut)[1]
    axis = net.split_point(cut).channel_axis
    shape = (len(exact), len(QUALITIES))
    nbytes, differs = np.zeros(shape), np.zeros(shape, bool)
    divergence, margin = np.zeros(shape), np.zeros(shape)
    encode_s, decode_s = [], []
    for number in range(len(exact)):
        item = exact[number : number + 1]
        transform = fits.unseen(cut, number)
        decoded = np.empty((len(QUALITIES), *item.shape[1:]), np.float32)
        for quality in QUALITIES:
            start = time.perf_counter()
            coding = f"dct@{quality}"
            tensor = encode_activation(item, coding, channel_axis=axis, transform=transform)
            middle = time.perf_counter()
            (decoded[quality],) = decode_activation(
                tensor, shape=item.shape[1:], transform=transform
            )
            if quality == len(QUALITIES) // 2:
                decode_s.append(time.perf_counter() - middle)
                encode_s.append(middle - start)
            nbytes[number, quality] = request_bytes(Cut.of(cut, coding), tensor) + HTTP_BYTES
        with torch.inference_mode():
            own = torch.log_softmax(tail(torch.from_numpy(decoded)), dim=1)
        best = own.exp().topk(2, dim=1).values
        margin[number] = (best[:, 0] - best[:, 1]).numpy()
        differs[number] = (own.argmax(dim=1) != full[number].argmax()).numpy()
        divergence[number] = (full[number].exp() * (full[number] - own)).sum(dim=1).numpy()
    return Answers(
        nbytes,
        differs,
        divergence,
        margin,
        1e3 * statistics.median(encode_s),
        1e3 * statistics.median(decode_s),
    )


def _quality_rows(label: str, answers: Answers) -> Iterator[Row]:
    for quality in QUALITIES:
        differs = answers.differs[:, quality]
        divergence = float(answers.divergence[:, quality].mean())
        yield row(
            f"{label} dct@{quality}: disagrees on {differs.mean():.1%}, divergence "
            f"{divergence:.4f} nats, a wrong answer has the lower margin in "
            f"{_ordered(answers.margin[:, quality], differs):.1%} of pairs",
            float(answers.nbytes[:, quality].mean()),
            "bytes",
            disagreement=float(differs.mean()),
            divergence=divergence,
        )


def _ordered(margin: Array, differs: Array) -> float:
    """The share of pairs of a right and a wrong answer in which the wrong one has less margin."""
    if differs.all() or not differs.any():
        return float("nan")
    return float((margin[differs][:, None] < margin[~differs][None]).mean())


def _plans(answers: Answers, proof: Proof, coarse: int = COARSE_QUALITY) -> list[Plan]:
    """The plans with a second request; none where no threshold is proven."""
    if np.isnan(proof.threshold):
        return []
    return [Plan(coarse, fine, proof.threshold) for fine in QUALITIES[coarse + 1 :]]


def _byte_rows(label: str, answers: Answers) -> Iterator[Row]:
    """What is proven with each coarse quality, and the bytes and the disagreement with it."""
    for coarse in (2, 3, 4):
        proof = prove(answers.margin[:, coarse], answers.differs[:, coarse])
        yield row(
            f"{label} dct@{coarse} first: {proof.differing} of {proof.photos} surest answers "
            f"differ, at most {proof.bound:.2%}",
            proof.threshold,
            "margin",
        )
        for plan in _plans(answers, proof, coarse):
            nbytes, differs = plan.nbytes(answers).mean(), plan.differs(answers).mean()
            alone = answers.nbytes[:, plan.fine].mean()
            yield row(
                f"{label} dct@{coarse}+{plan.fine}: {plan.again(answers).mean():.1%} sent again, "
                f"disagrees on {differs:.1%}",
                float(nbytes),
                "bytes",
                rival=f"dct@{plan.fine}, {answers.differs[:, plan.fine].mean():.1%}",
                ratio=float(nbytes / alone),
            )


def _unseen_rows(label: str, answers: Answers) -> Iterator[Row]:
    """A threshold of one half of the photos on the other half, for random halves.

    A half is too small to prove 1 %, so its threshold is the highest margin of its wrong answers.
    """
    count = len(answers.nbytes)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(count) for _ in range(HALVES)]
    margin, differs = answers.margin[:, COARSE_QUALITY], answers.differs[:, COARSE_QUALITY]
    figures = []
    for order in orders:
        first, second = order[: count // 2], order[count // 2 :]
        threshold = margin[first][differs[first]].max(initial=0.0)
        sure = margin[second] > threshold
        figures.append([differs[second][sure].mean(), 1 - sure.mean()])
    wrong, again = np.mean(figures, axis=0)
    yield row(
        f"{label} dct@{COARSE_QUALITY}: chosen on one half, {again:.1%} of the other are sent again",
        float(100 * wrong),
        "% of the rest differ",
    )


@dataclass(frozen=True)
class Where:
    """A link in Mbit/s with its round trip in ms, and how many times slower the device is."""

    link: float
    trip: float
    slowdown: float

    def transfer_ms(self, nbytes: float) -> float:
        return nbytes * 8e-3 / self.link


@dataclass(frozen=True)
class Costs:
    """Milliseconds of one photo on the machine that measured them.

    Attributes:
        head, network: in onnxruntime, as a device runs them.
        tail, served: tail and whole network in PyTorch, as the server runs them.
    """

    head: float
    network: float
    tail: float
    served: float
    encode: float
    decode: float

    def rows(self, label: str) -> Iterator[Row]:
        for name, ms in vars(self).items():
            yield row(f"{label}: {name}", ms, "ms")

    def photo(self, where: Where) -> float:
        """The whole network on the server."""
        return where.transfer_ms(PHOTO_BYTES) + where.trip + self.served

    def latency(self, plan: Plan, answers: Answers, where: Where) -> float:
        """The mean latency. The second request needs no head, but the tail again."""
        requests = 1 + plan.again(answers).mean()
        own = self.encode * where.slowdown + self.decode + self.tail + where.trip
        transfer = where.transfer_ms(float(plan.nbytes(answers).mean()))
        return float(self.head * where.slowdown + requests * own + transfer)


def _costs(net: CapturedNetwork, cut: str, answers: Answers) -> Costs:
    """Times of this machine. Without onnxruntime those of PyTorch stand for it."""
    torch_ms, tail_ms = part_times.head_and_tail_ms(net, [cut])
    device_ms = device_times.device_head_ms(net, [cut], torch_ms) or torch_ms
    return Costs(
        device_ms[cut],
        device_ms[OUTPUT],
        tail_ms[cut],
        torch_ms[OUTPUT],
        answers.encode_ms,
        answers.decode_ms,
    )


def _grid_rows(label: str, answers: Answers, costs: Costs) -> Iterator[Row]:
    """Latencies of refining cuts beside their rivals, link by link."""
    coarse = COARSE_QUALITY
    proof = prove(answers.margin[:, coarse], answers.differs[:, coarse])
    for plan in _plans(answers, proof):
        if plan.fine not in FINE_QUALITIES:
            continue
        single = Plan(plan.fine, plan.fine)
        gains = []
        for slowdown in SLOWDOWNS:
            for trip in ROUND_TRIPS:
                for link in LINKS:
                    where = Where(link, trip, slowdown)
                    one, refined = (costs.latency(each, answers, where) for each in (single, plan))
                    rivals = {
                        "photo": costs.photo(where),
                        "on the device": slowdown * costs.network,
                        f"dct@{plan.fine}": one,
                    }
                    best = min(rivals, key=lambda name: rivals[name])
                    gains.append(rivals[best] / refined)
                    yield row(
                        f"{label} dct@{plan.coarse}+{plan.fine}: {link:g} Mbit/s, {trip:g} ms, "
                        f"device {slowdown} times slower; {one:.0f} ms in one request",
                        refined,
                        "ms",
                        rival=best,
                        ratio=refined / rivals[best],
                        one_request=one,
                    )
        wins = [gain for gain in gains if gain > 1]
        words = f"by {min(wins) - 1:.0%} to {max(wins) - 1:.0%}" if wins else ""
        yield row(
            f"{label} dct@{plan.coarse}+{plan.fine}: the fastest of all",
            len(wins),
            f"of {len(gains)}",
            expected=words,
        )
