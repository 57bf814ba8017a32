"""Does an encoder under onnxruntime decide as the same encoder under torch? On whole test sets, with trained ones.

For each trained bottleneck of the study the encoder is exported as a package does it and run by onnxruntime; its codes
and torch's go through the same codec, each image on its own, and then through the same torch decoder and tail.
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

from isplit_plugin.bottleneck import (
    SUFFIX,
    Bottleneck,
    Photos,
    decoder_tail,
    encoder_head,
    export_encoder,
    load_bottleneck,
)
from isplit_plugin.network import CapturedNetwork, capture, load_network
from isplit_plugin.wire import decode_activation, encode_activation

from .train import photos_of

CODECS = ("fp32", "uint8", "q4+rle", "q2+rle")
BATCH = 64

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Compared:
    """One bottleneck with one codec. ``same``: photos with the same top-1 class. ``scores``: the largest difference of
    any score. ``codes``: the largest difference of any value of the code, over the code's largest. ``margin``: of the
    photos that differ, the largest lead of torch's class over the one that onnxruntime's code gave."""

    network: str
    bottleneck: str
    codec: str
    photos: int
    same: int
    accuracy: float
    scores: float
    codes: float
    margin: float


def encoders(work: Path, networks: Sequence[str], seeds: int) -> str:
    """The table of all trained bottlenecks of these networks (default: of all) below ``work``."""
    found: list[Compared] = []
    names = networks or sorted(p.name for p in (work / "evaluation").iterdir())
    if not names:
        raise SystemExit(f"no trained bottlenecks below {work / 'evaluation'}: `run` makes them")
    torch.set_num_threads(1)
    for name in names:
        began = time.perf_counter()
        mine = list(_of_network(work, name, seeds))
        found += mine
        print(
            f"{name}: {len(mine) // len(CODECS)} bottlenecks, {time.perf_counter() - began:.0f} s",
            flush=True,
        )
    return render(found)


def _of_network(work: Path, name: str, seeds: int) -> Iterator[Compared]:
    loaded = load_network(
        f"benchmarks.evaluation.networks:{name}", weights=work / "weights" / f"{name}.safetensors"
    )
    photos = photos_of(work / name.rpartition("_")[2] / "val", loaded)
    net = capture(loaded.model, loaded.example_input)
    for seed in range(seeds):
        for path in sorted((work / "evaluation" / name / f"seed{seed}").glob(f"*{SUFFIX}")):
            yield from compare(name, net, load_bottleneck(path, net, loaded.preprocessing), photos)


def compare(
    name: str, net: CapturedNetwork, bottleneck: Bottleneck, photos: Photos
) -> Iterator[Compared]:
    """One line for each codec, on all photos."""
    head, tail = encoder_head(net, bottleneck), decoder_tail(net, bottleneck)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "encoder.onnx"
        export_encoder(net, bottleneck, file)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    given, codes, theirs = session.get_inputs()[0].name, [], []
    with torch.inference_mode():
        for rows in _batches(len(photos)):
            x = photos.tensor(rows)
            codes.append(head(x).numpy())
            theirs.append(session.run(None, {given: x.numpy()})[0])
    torch_code, onnx_code = np.concatenate(codes), np.concatenate(theirs)
    off = float(np.abs(torch_code - onnx_code).max() / max(float(np.abs(torch_code).max()), 1e-30))
    for codec in CODECS:
        mine, other = (_scores(tail, _through(codec, code)) for code in (torch_code, onnx_code))
        ours, got = mine.argmax(axis=1), other.argmax(axis=1)
        every = np.arange(len(ours))
        yield Compared(
            network=name,
            bottleneck=bottleneck.name,
            codec=codec,
            photos=len(ours),
            same=int((ours == got).sum()),
            accuracy=float((ours == photos.labels).mean()),
            scores=float(np.abs(mine - other).max()),
            codes=off,
            margin=float((mine[every, ours] - mine[every, got]).max()),
        )


def _batches(count: int) -> Iterator[range]:
    return (range(i, min(i + BATCH, count)) for i in range(0, count, BATCH))


def _through(codec: str, code: Floats) -> Floats:
    shape = code.shape[1:]
    return np.concatenate(
        [decode_activation(encode_activation(one[None], codec), shape=shape) for one in code]
    )


def _scores(tail: torch.nn.Module, code: Floats) -> Floats:
    with torch.inference_mode():
        return np.concatenate(
            [tail(torch.from_numpy(code[list(rows)])).numpy() for rows in _batches(len(code))]
        )


def render(found: Sequence[Compared]) -> str:
    """A line for each network and codec, and the sum; "worst" is the bottleneck with most photos that differ."""
    lines = [
        "| network, data | codec | bottlenecks x photos | other top-1 | same | worst bottleneck | largest difference "
        "of a score | largest lead that was lost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    networks = list(dict.fromkeys(c.network for c in found))
    for network in [*networks, "all"]:
        for codec in CODECS:
            some = [c for c in found if c.codec == codec and network in (c.network, "all")]
            photos, same = sum(c.photos for c in some), sum(c.same for c in some)
            worst = min(some, key=lambda c: c.same / c.photos)
            which = f" ({worst.bottleneck})" if worst.same < worst.photos else ""
            lines.append(
                f"| {network} | `{codec}` | {len(some)} x {photos / len(some):,.0f} | {photos - same} | "
                f"{same / photos:.4%} | {worst.same / worst.photos:.2%}{which} | "
                f"{max(c.scores for c in some):.1e} | {max(c.margin for c in some):.1e} |"
            )
    lines.append(
        f"\nLargest difference of a code, over its largest value: {max(c.codes for c in found):.1e}."
    )
    return "\n".join(lines)
