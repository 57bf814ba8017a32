"""Weights that several ONNX heads of a head bundle have in common, each stored once.

An early head is the beginning of a later one, so their weights repeat. They move into files of
their own, whose bytes are appended to a head: protobuf merges messages that follow each other, so
head and weights together are one ONNX model again, for any engine.

With fp16, weights take half the space. A ``Cast`` node in front gives them back as fp32, and an
engine folds it into a constant when it loads the head: it computes in fp32, and as fast.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from ..errors import ArtifactError, CaptureError

if TYPE_CHECKING:
    import onnx

__all__ = ["Precision", "share_weights"]

Precision = Literal["fp32", "fp16"]
"""How weights are stored in a head bundle."""

PRECISIONS: Final = ("fp32", "fp16")
MIN_VALUES: Final = 1024
"""Smaller tensors, biases mostly, stay as they are: they take little space and matter more."""
MAX_DIFFERENCE: Final = 0.02
"""By how much fp16 may change what a head puts out, relative to the largest value."""

_Key = tuple[str, str]
"""Name and hash of a tensor."""


def share_weights(
    heads: Path, weights: Path, precision: Precision = "fp32"
) -> tuple[dict[str, tuple[str, ...]], dict[str, float]]:
    """Move what several ONNX heads have in common into files of their own.

    Parameters:
        heads: the folder of the heads, ``NAME.onnx``, which are rewritten.
        weights: the folder to make for ``1.onnx``, ``2.onnx`` and so on.
        precision: of the weights in the files.

    Returns:
        for each head that shares weights the names of its weights files; and with fp16 for each head
        the largest difference between what it puts out now and before, relative to the largest
        value, on random inputs.

    Raises:
        CaptureError: with fp16, a head puts out something else.
        ArtifactError: another precision.
    """
    if precision not in PRECISIONS:
        raise ArtifactError(
            f"bundle precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}"
        )
    files = {path.stem: path for path in sorted(heads.glob("*.onnx"))}
    differences: dict[str, float] = {}
    users: dict[_Key, set[str]] = {}
    for name, path in files.items():
        if precision == "fp16":
            differences[name] = _halve(path)
        for key in _tensors(path.read_bytes()):
            users.setdefault(key, set()).add(name)
    groups: dict[frozenset[str], set[_Key]] = {}
    for key, names in users.items():
        if len(names) > 1:
            groups.setdefault(frozenset(names), set()).add(key)
    parts: dict[str, tuple[str, ...]] = {}
    for number, (sharing, keys) in enumerate(groups.items(), start=1):
        for name in sorted(sharing):
            _move(files[name], weights / f"{number}.onnx", keys)
            parts[name] = (*parts.get(name, ()), f"{number}.onnx")
    for name, files_of_head in parts.items():
        data = b"".join(
            [files[name].read_bytes(), *((weights / f).read_bytes() for f in files_of_head)]
        )
        if {key for key, names in users.items() if name in names} != set(_tensors(data)):
            raise CaptureError(f"the head of {name!r} lost weights when they were shared")
    return parts, differences


def _tensors(data: bytes) -> dict[_Key, onnx.TensorProto]:
    import onnx

    model = onnx.load_from_string(data)
    return {(t.name, _digest(t)): t for t in model.graph.initializer}


def _digest(tensor: onnx.TensorProto) -> str:
    return hashlib.sha256(tensor.SerializeToString(deterministic=True)).hexdigest()


def _move(head: Path, file: Path, keys: set[_Key]) -> None:
    """Take tensors out of a head, into a file if it is not there yet."""
    import onnx

    model = onnx.load_from_string(head.read_bytes())
    stay: list[onnx.TensorProto] = []
    move: list[onnx.TensorProto] = []
    for tensor in model.graph.initializer:
        (move if (tensor.name, _digest(tensor)) in keys else stay).append(tensor)
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        part = onnx.ModelProto()
        part.graph.initializer.extend(sorted(move, key=lambda tensor: tensor.name))
        file.write_bytes(part.SerializeToString(deterministic=True))
    _replace(model.graph.initializer, stay)
    head.write_bytes(model.SerializeToString(deterministic=True))


def _halve(head: Path) -> float:
    """Store the larger weights of a head as fp16; returns by how much that changes its output."""
    import onnx
    from onnx import numpy_helper

    before = head.read_bytes()
    model = onnx.load_from_string(before)
    tensors, casts = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        limit = np.finfo(np.float16).max
        if values.dtype != np.float32 or values.size < MIN_VALUES or np.abs(values).max() > limit:
            tensors.append(tensor)
            continue
        name = f"{tensor.name}.fp16"
        tensors.append(numpy_helper.from_array(values.astype(np.float16), name))
        casts.append(
            onnx.helper.make_node(
                "Cast", [name], [tensor.name], f"{name}.cast", to=onnx.TensorProto.FLOAT
            )
        )
    _replace(model.graph.initializer, tensors)
    _replace(model.graph.node, [*casts, *model.graph.node])
    after = bytes(model.SerializeToString(deterministic=True))
    difference = _difference(before, after, head.stem)
    head.write_bytes(after)
    return difference


def _replace(field: Any, items: list[Any]) -> None:
    """Give a repeated field of protobuf other items."""
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)


def _difference(before: bytes, after: bytes, name: str) -> float:
    """The largest difference of outputs, relative to the largest; NaN without onnxruntime."""
    try:
        import onnxruntime as ort
    except ImportError:
        return float("nan")
    outputs = []
    for data in (before, after):
        session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
        (head_input,) = session.get_inputs()
        shape = [size if isinstance(size, int) else 2 for size in head_input.shape]
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        outputs.append(np.asarray(session.run(None, {head_input.name: x})[0]))
    difference = float(np.abs(outputs[1] - outputs[0]).max() / max(np.abs(outputs[0]).max(), 1e-30))
    if not difference <= MAX_DIFFERENCE:
        raise CaptureError(
            f"the head of {name!r} puts out something else with weights as fp16: relative "
            f"difference {difference:.2g}, expected at most {MAX_DIFFERENCE}"
        )
    return difference
