"""Exits: which share of the photos a device can answer by itself, and what proves and saves it.

``python -m benchmarks exits --data FOLDER`` reads photos from FOLDER, as :mod:`.exit_traffic` says,
in its own domain, with traffic of 5, 20 or all classes, and mixed.

Of the photos that had no part in the network's last layer a third goes into the sums, and the exit
is fitted from them. Half of them are the shadow, of which two questions are asked. Which classes
does the proof release, with these photos alone ("proven")? And which bin, one for all classes,
keeps the disagreement within the tolerance on these photos ("if proven": what more traffic of this
kind would come close to)? Share answered and disagreement are measured on the last sixth, which
nothing else has seen.

**More traffic** is drawn from the photos outside of the sums: each once while there are enough, at
random and again and again for more. Drawn again, a photo is no evidence about the world, but it is
about traffic of exactly these shares, of which we know the truth: that says what a proof takes. The
rows compare classes that are proven together with the same tests of each class by itself.

Latency is that of :mod:`isplit_plugin.advice`, on links and a device that the rows name, with the
times of head and tail on one core of this machine. Bytes are those of requests at 128 x 128.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from isplit_plugin import image
from isplit_plugin.advice.latency import Link
from isplit_plugin.exits import (
    Exit,
    ExitSums,
    fit_exit,
    pool,
    usual_pooling,
)
from isplit_plugin.network import LoadedNetwork, activations, capture, part_times
from isplit_plugin.schema import Cut
from isplit_plugin.wire import decode_activation, encode_activation, request_bytes

from .exit_streams import LENGTHS, Bins, Said, released_after, released_bins, state_after
from .exit_traffic import (
    CODEC,
    F64,
    I64,
    Photos,
    Traffic,
    chosen_photos,
    networks,
    small,
    traffic,
)
from .harness import Row, row, table

TRAFFIC: Final = (5, 20)
"""Numbers of classes in the traffic, beside all."""
TOLERANCES: Final = (0.01, 0.02)
MIN_PHOTOS: Final = 15
STREAMS: Final = 3
LINKS: Final = (Link(20.0, 20.0, "assumed", "assumed"), Link(2.0, 60.0, "assumed", "assumed"))
SLOWDOWN: Final = 4.0
"""How many times slower the device is than a core of this machine."""
SENT: Final = "uint8+zstd"
HTTP_BYTES: Final = 255
COST_PHOTOS: Final = 24


@dataclass(frozen=True)
class Costs:
    """Of a photo at a split point.

    Attributes:
        nbytes: of a request. head_ms, tail_ms, encode_ms, decode_ms: of its parts, one core.
        exit_ms: decoding as the tail does, pooling, and the answer of an exit.
    """

    nbytes: float
    head_ms: float
    tail_ms: float
    encode_ms: float
    decode_ms: float
    exit_ms: float

    def latency_ms(self, link: Link, answered: float, *, exits: bool) -> float:
        """The mean latency where this share of the photos is answered on the device."""
        on_device = self.head_ms + self.encode_ms + exits * self.exit_ms
        sent = link.transfer_ms(self.nbytes) + self.decode_ms + self.tail_ms
        return SLOWDOWN * on_device + (1 - answered) * sent


def run(quick: bool = False) -> list[Row]:
    """Rows for each network, traffic and split point."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows: list[Row] = []
        for name, loaded in networks():
            photos = chosen_photos(name, quick=quick)
            if photos:
                rows += _network_rows(name, loaded, photos)
        return rows
    finally:
        torch.set_num_threads(threads)


def _network_rows(name: str, loaded: LoadedNetwork, photos: Photos) -> list[Row]:
    seen = traffic(name, loaded, photos)
    costs = dict(_costs(loaded, list(seen.features), photos))
    own, mixed = seen.own_answers(), seen.scores.argmax(axis=1)
    classes = int(seen.label.max()) + 1
    accuracy = float((own == seen.label)[seen.rest :].mean())
    rows = [row(f"{name}, own domain: accuracy on {classes} classes", accuracy, "share")]
    rows += [_cost_row(name, point, cost) for point, cost in costs.items()]
    for number in dict.fromkeys([*(k for k in TRAFFIC if k < classes), classes]):
        within = np.flatnonzero(seen.label[seen.rest :] < number) + seen.rest
        for point in seen.features:
            label = f"{name} {point}, own domain, {number} classes"
            rows += _exit_rows(label, seen, point, within, own, costs[point])
    everything = np.arange(seen.rest, len(seen.label))
    for point in seen.features:
        rows += _exit_rows(f"{name} {point}, mixed", seen, point, everything, mixed, costs[point])
    print(table(rows), file=sys.stderr, flush=True)
    return rows


def _cost_row(name: str, point: str, cost: Costs) -> Row:
    return row(
        f"{name} {point}: bytes of a request, {SENT}", cost.nbytes, "bytes", **vars(cost),
        expected=f"head {cost.head_ms:.1f}, tail {cost.tail_ms:.1f}, exit {cost.exit_ms:.2f} ms",
    )  # fmt: skip


def _costs(loaded: LoadedNetwork, points: list[str], photos: Photos) -> Iterator[tuple[str, Costs]]:
    """Medians of a few photos by split point."""
    pre = small(loaded.preprocessing)
    net = capture(loaded.model, torch.zeros(1, *pre.shape))
    head_ms, tail_ms = part_times.head_and_tail_ms(net, points)
    files = [file for file, _ in photos[:COST_PHOTOS]]
    x = np.stack([image.normalize(image.crop(file, pre), pre) for file in files])
    tensors, _ = activations(net, points, torch.from_numpy(x))
    for point in points:
        axis = net.split_point(point).channel_axis
        items = [item[None] for item in tensors[point].numpy()]
        shape = items[0].shape[1:]
        pooling = usual_pooling(shape, axis)
        exit_ = _any_exit(point, np.stack([pool(i[0], axis, pooling) for i in items]))
        times: list[list[float]] = []
        sizes = []
        for item in items:
            clock = [time.perf_counter()]
            sent = encode_activation(item, SENT, channel_axis=axis)
            clock.append(time.perf_counter())
            decoded = decode_activation(sent, shape=shape)
            clock.append(time.perf_counter())
            exit_.answer(pool(decoded[0], axis, pooling))
            clock.append(time.perf_counter())
            encode_s, decode_s, answer_s = np.diff(clock).tolist()
            times.append([encode_s, decode_s, decode_s + answer_s])
            sizes.append(request_bytes(Cut(point, SENT), sent) + HTTP_BYTES)
        encode_ms, decode_ms, exit_ms = (
            1e3 * statistics.median(t) for t in zip(*times, strict=True)
        )
        yield (
            point,
            Costs(
                statistics.fmean(sizes),
                head_ms[point],
                tail_ms[point],
                encode_ms,
                decode_ms,
                exit_ms,
            ),
        )


def _any_exit(point: str, features: npt.NDArray[np.float32]) -> Exit:
    """An exit of ten classes, to take its time."""
    many = np.random.default_rng(0).normal(
        features.mean(0), features.std(0) + 1e-3, (300, features.shape[1])
    )
    return fit(point, many, np.arange(300) % 10)


def fit(point: str, features: F64, answers: I64) -> Exit:
    sums = ExitSums.empty(
        "network", Cut(point, CODEC), features.min(axis=0) - 1e-3, features.max(axis=0) + 1e-3
    )
    sums.add(features, answers)
    return fit_exit(sums, min_weight=MIN_PHOTOS, created=0.0)


def _exit_rows(  # noqa: PLR0917
    label: str, seen: Traffic, point: str, within: I64, answers: I64, cost: Costs
) -> list[Row]:
    features, answers = seen.features[point][within], answers[within]
    first, last = len(answers) // 3, len(answers) - len(answers) // 6
    _, photos = np.unique(answers[:first], return_counts=True)
    if np.count_nonzero(photos >= MIN_PHOTOS) < 2:
        few = "no exit: few photos"
        return [row(f"{label}: answered on the device", 0.0, "share", expected=few)]
    exit_ = fit(point, features[:first], answers[:first])
    shadow = Said.by(exit_, features[first:last], answers[first:last])
    unseen = Said.by(exit_, features[last:], answers[last:])
    population = Said.by(exit_, features[first:], answers[first:])
    rows = [
        row(f"{label}: classes of the exit", len(exit_.classes), "classes"),
        row(f"{label}: bytes of the exit", len(exit_.to_bytes()), "bytes"),
    ]
    for tolerance in TOLERANCES:
        could = shadow.lowest_within(tolerance)
        proven = released_bins(state_after(exit_.classes, shadow, tolerance))
        releases: list[tuple[str, Bins]] = [
            ("if proven", dict.fromkeys(exit_.classes, could)),
            (f"proven by {len(shadow.bins)}", proven),
        ]
        for words, bins in releases:
            share, wrong = unseen.answered(bins)
            released = sum(lowest is not None for lowest in bins.values())
            rows.append(
                row(
                    f"{label}, {tolerance:.0%}, {words}: answered on the device", share, "share",
                    disagreement=wrong, released=released, **_saved(share, cost),
                    expected=f"{wrong:.1%} disagree, {released} of {len(exit_.classes)} classes, "
                    f"{_saved_words(share, cost)}",
                )
            )  # fmt: skip
        rows += _stream_rows(f"{label}, {tolerance:.0%}", exit_, population, tolerance)
    return rows


def _saved(share: float, cost: Costs) -> dict[str, Any]:
    """Bytes and milliseconds of a mean photo, saved and without exits, by link."""
    without = [cost.latency_ms(link, 0.0, exits=False) for link in LINKS]
    with_exits = [cost.latency_ms(link, share, exits=True) for link in LINKS]
    return {
        "bytes_saved": share * cost.nbytes,
        "ms_saved": [a - b for a, b in zip(without, with_exits, strict=True)],
        "ms_without": without,
    }


def _saved_words(share: float, cost: Costs) -> str:
    saved = _saved(share, cost)
    links = (
        f"{ms:.1f} of {total:.0f} ms at {link.bandwidth_mbps:g} Mbit/s, {link.rtt_ms:g} ms"
        for ms, total, link in zip(saved["ms_saved"], saved["ms_without"], LINKS, strict=True)
    )
    return f"saves {saved['bytes_saved']:,.0f} of {cost.nbytes:,.0f} bytes, {'; '.join(links)}"


def _stream_rows(label: str, exit_: Exit, population: Said, tolerance: float) -> list[Row]:
    """What traffic drawn from these photos proves, classes together and each by itself."""
    rows = []
    for words, together in (("together", True), ("class by class", False)):
        firsts, shares, wrongs = [], [], []
        for seed in range(STREAMS):
            first, after = released_after(
                exit_, population, tolerance, np.random.default_rng(seed), together=together
            )
            firsts.append(first)
            answered = [population.answered(bins) for bins in after]
            shares.append([share for share, _ in answered])
            wrongs.append([wrong for _, wrong in answered])
        means = np.mean(shares, axis=0).tolist()
        rows.append(
            row(
                f"{label}, {words}: photos until the first release", statistics.median(firsts),
                "photos", answered=means, disagreement=np.max(wrongs, axis=0).tolist(),
                expected="then answered: "
                + ", ".join(
                    f"{share:.0%} after {n:,}" for n, share in zip(LENGTHS, means, strict=True)
                )
                + f"; {np.max(wrongs):.1%} disagree at most",
            )
        )  # fmt: skip
    return rows
