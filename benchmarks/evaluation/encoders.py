"""Whether an encoder in onnxruntime decides as the same encoder in torch, on whole test sets.

Each trained encoder of the study is exported as a package exports it, and run by onnxruntime. Its
codes and torch's codes pass the same codec, each image on its own, and then the same decoder and
tail in torch.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from isplit_plugin.bottleneck import (
    BOTTLENECK_SUFFIX,
    Bottleneck,
    Photos,
    decoder_tail,
    encoder_head,
    export_encoder,
    load_bottleneck,
)
from isplit_plugin.evaluation import markdown_table
from isplit_plugin.network import CapturedNetwork, capture, load_network
from isplit_plugin.wire import decode_activation, encode_activation

from .train import network_of, photos_of

CODECS = ("fp32", "uint8", "q4+rle+zstd", "q2+rle+zstd")
BATCH_SIZE = 64

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The encoder of one bottleneck in both engines, with one codec.

    Attributes:
        network: network and data set.
        bottleneck: name of the bottleneck.
        codec: name of the codec.
        photos: number of photos.
        same: photos with the same top-1 class.
        accuracy: accuracy with torch's code.
        score_difference: largest difference of a score.
        code_difference: largest difference of a value of the code, over the largest value.
        lost_margin: of the photos whose top-1 class differs, the largest margin by which torch's
            class was ahead.
    """

    network: str
    bottleneck: str
    codec: str
    photos: int
    same: int
    accuracy: float
    score_difference: float
    code_difference: float
    lost_margin: float


def compare_all(work: Path, networks: Sequence[str], seeds: int) -> str:
    """The table of all trained bottlenecks of these networks (default: of all) in ``work``."""
    names = networks or sorted(path.name for path in (work / "evaluation").iterdir())
    if not names:
        raise SystemExit(f"{work / 'evaluation'}: no trained bottlenecks; make them with `run`")
    torch.set_num_threads(1)
    comparisons: list[Comparison] = []
    for name in names:
        started = time.perf_counter()
        before = len(comparisons)
        comparisons += _compare_network(work, name, seeds)
        count = (len(comparisons) - before) // len(CODECS)
        print(f"{name}: {count} bottlenecks, {time.perf_counter() - started:.0f} s", flush=True)
    return render(comparisons)


def render(comparisons: Sequence[Comparison]) -> str:
    """A table with one line for each network and codec, and lines for all networks.

    The worst bottleneck is the one with most photos whose top-1 class differs.
    """
    header = [
        "network, data",
        "codec",
        "bottlenecks x photos",
        "other top-1",
        "same",
        "worst bottleneck",
        "largest difference of a score",
        "largest margin lost",
    ]
    networks = list(dict.fromkeys(comparison.network for comparison in comparisons))
    rows = [
        _row(network, codec, [c for c in comparisons if network in (c.network, "all")])
        for network in [*networks, "all"]
        for codec in CODECS
    ]
    difference = max(comparison.code_difference for comparison in comparisons)
    return (
        f"{markdown_table(header, rows)}\n\n"
        f"Largest difference of a code, over its largest value: {difference:.1e}."
    )


def _row(network: str, codec: str, comparisons: Sequence[Comparison]) -> list[str]:
    comparisons = [comparison for comparison in comparisons if comparison.codec == codec]
    photos = sum(comparison.photos for comparison in comparisons)
    same = sum(comparison.same for comparison in comparisons)
    worst = min(comparisons, key=lambda comparison: comparison.same / comparison.photos)
    worst_text = f"{worst.same / worst.photos:.2%}"
    if worst.same < worst.photos:
        worst_text += f" ({worst.bottleneck})"
    return [
        network,
        f"`{codec}`",
        f"{len(comparisons)} x {photos / len(comparisons):,.0f}",
        f"{photos - same}",
        f"{same / photos:.4%}",
        worst_text,
        f"{max(comparison.score_difference for comparison in comparisons):.1e}",
        f"{max(comparison.lost_margin for comparison in comparisons):.1e}",
    ]


def _compare_network(work: Path, name: str, seeds: int) -> Iterator[Comparison]:
    network = network_of(name)
    loaded = load_network(
        f"benchmarks.evaluation.networks:{network}",
        weights=work / "weights" / f"{name}.safetensors",
    )
    photos = photos_of(work / network.rpartition("_")[2] / "val", loaded)
    net = capture(loaded.model, loaded.example_input)
    for seed in range(seeds):
        folder = work / "evaluation" / name / f"seed{seed}"
        for path in sorted(folder.glob(f"*{BOTTLENECK_SUFFIX}")):
            bottleneck = load_bottleneck(path, net, loaded.preprocessing)
            yield from _compare_bottleneck(name, net, bottleneck, photos)


def _compare_bottleneck(
    network: str, net: CapturedNetwork, bottleneck: Bottleneck, photos: Photos
) -> Iterator[Comparison]:
    """One comparison for each codec, on all photos."""
    torch_codes, onnx_codes = _codes(net, bottleneck, photos)
    largest = max(float(np.abs(torch_codes).max()), 1e-30)
    code_difference = float(np.abs(torch_codes - onnx_codes).max() / largest)
    tail = decoder_tail(net, bottleneck)
    rows = np.arange(len(photos))
    for codec in CODECS:
        torch_scores = _scores(tail, _transmit(codec, torch_codes))
        onnx_scores = _scores(tail, _transmit(codec, onnx_codes))
        torch_top1 = torch_scores.argmax(axis=1)
        onnx_top1 = onnx_scores.argmax(axis=1)
        margins = torch_scores[rows, torch_top1] - torch_scores[rows, onnx_top1]
        yield Comparison(
            network=network,
            bottleneck=bottleneck.name,
            codec=codec,
            photos=len(photos),
            same=int((torch_top1 == onnx_top1).sum()),
            accuracy=float((torch_top1 == photos.labels).mean()),
            score_difference=float(np.abs(torch_scores - onnx_scores).max()),
            code_difference=code_difference,
            lost_margin=float(margins.max()),
        )


def _codes(net: CapturedNetwork, bottleneck: Bottleneck, photos: Photos) -> tuple[Floats, Floats]:
    """The codes of all photos in torch and in onnxruntime."""
    head = encoder_head(net, bottleneck)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "encoder.onnx"
        export_encoder(net, bottleneck, file)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    input_name = session.get_inputs()[0].name
    torch_codes = []
    onnx_codes = []
    with torch.inference_mode():
        for rows in _batches(len(photos)):
            x = photos.tensor(rows)
            torch_codes.append(head(x).numpy())
            onnx_codes.append(session.run(None, {input_name: x.numpy()})[0])
    return np.concatenate(torch_codes), np.concatenate(onnx_codes)


def _batches(count: int) -> Iterator[range]:
    return (range(i, min(i + BATCH_SIZE, count)) for i in range(0, count, BATCH_SIZE))


def _transmit(codec: str, codes: Floats) -> Floats:
    """Each code encoded and decoded on its own."""
    shape = codes.shape[1:]
    return np.concatenate(
        [decode_activation(encode_activation(code[None], codec), shape=shape) for code in codes]
    )


def _scores(tail: nn.Module, codes: Floats) -> Floats:
    with torch.inference_mode():
        return np.concatenate(
            [tail(torch.from_numpy(codes[list(rows)])).numpy() for rows in _batches(len(codes))]
        )
