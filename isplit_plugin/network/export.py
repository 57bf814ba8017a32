"""Heads for devices: the first part of a network as ONNX, or as a ``.pt2`` for devices that run torch.

ONNX is data and runs on light engines; a ``.pt2`` is code, for devices that trust whoever built it. Both take a batch
of any size: ``input`` (N, ...) -> ``activation`` (N, ...), or ``scores`` (N, classes) for the whole network.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..errors import ArtifactError, CaptureError, SplitPointError
from ..files import write_atomically
from ..schema import FloatArray
from .captured_network import CapturedNetwork
from .execution import on_device

__all__ = ["FORMATS", "export_head", "export_part"]

FORMATS: Final = ("onnx", "pt2")
_TOLERANCE: Final = 1e-4
"""Largest error relative to the largest value; another engine differs by 1e-6, a wrong operator by 1e-1 and more."""


def export_head(
    net: CapturedNetwork,
    split_point: str,
    path: str | Path,
    format: Literal["onnx", "pt2"] = "onnx",
) -> str:
    """Write the head of a split point (``output``: the whole network) and return the file's SHA-256.

    The file is checked before it gets its name: read back, run on a batch of one and of three, and compared with the
    torch head (ONNX where onnxruntime is installed; without it the structure alone). It holds no path of this machine.

    Raises SplitPointError (``input`` has no head, among others), UnknownSplitPointError, CaptureError where the head
    cannot be exported or the export computes something else, ArtifactError where the file cannot be written.
    """
    net = on_device(net, "cpu")
    head, _ = net.bisect(split_point)
    if isinstance(head, nn.Identity):
        raise SplitPointError(f"nothing runs before {split_point!r}: it has no head")
    example = torch.zeros(2, *net.input_shape, dtype=net.dtype)
    output = "scores" if head is net.model else "activation"
    return export_part(head, example, path, split_point=split_point, output=output, format=format)


def export_part(
    part: nn.Module,
    example: Tensor,
    path: str | Path,
    *,
    split_point: str,
    output: str = "activation",
    format: Literal["onnx", "pt2"] = "onnx",
) -> str:
    """:func:`export_head` for any part that a device runs (a head with an encoder behind it), on the CPU.

    ``example``: a batch (N, ...) of its inputs; ``split_point``: the name that it is known by; ``output``: of what it
    returns. Raises CaptureError, ArtifactError.
    """
    if format not in FORMATS:
        raise ArtifactError(f"head format: expected one of {', '.join(FORMATS)}, got {format!r}")
    program = _program(part, example, split_point)
    data = _onnx_bytes(program, output, split_point) if format == "onnx" else _pt2_bytes(program)
    run = _onnx_runner(data, split_point) if format == "onnx" else _pt2_runner(data)
    if run is not None:
        _compare(part, run, example, split_point)
    _write(Path(path), data)
    return hashlib.sha256(data).hexdigest()


def _program(head: nn.Module, example: Tensor, split_point: str) -> ExportedProgram:
    try:
        program = torch.export.export(
            head, (example,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False
        )
    except Exception as error:  # torch.export raises a dozen kinds, some private
        raise CaptureError(
            f"the head of {split_point!r} cannot be exported: {_first_line(error)}"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths and source lines of the machine it was built on
    return program


def _onnx_bytes(program: ExportedProgram, output: str, split_point: str) -> bytes:
    import onnx

    try:
        with _quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=["input"],
                output_names=[output],
                optimize=True,
            )
        if exported is None:
            raise CaptureError(f"the head of {split_point!r}: torch.onnx.export returned nothing")
        model = exported.model_proto
        _strip(model)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        model.producer_name = "isplit-plugin"
        onnx.helper.set_model_props(model, {"isplit_split_point": split_point})
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))
    except CaptureError:
        raise
    except Exception as error:  # the exporter, its optimiser, protobuf
        raise CaptureError(
            f"the head of {split_point!r} cannot become ONNX: {_first_line(error)}"
        ) from error


def _strip(model: Any) -> None:
    """Drop what the exporter writes for debugging: file paths, source lines, and several times the graph's size."""
    graph = model.graph
    parts = (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    )
    for part in (*parts, *model.functions):
        del part.metadata_props[:]
        part.doc_string = ""


def _pt2_bytes(program: ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()


Runner = Callable[[Tensor], FloatArray]


def _onnx_runner(data: bytes, split_point: str) -> Runner | None:
    try:
        import onnxruntime as ort
    except ImportError:
        return None
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own exceptions without a common base
        raise CaptureError(
            f"onnxruntime refuses the head of {split_point!r}: {_first_line(error)}"
        ) from error
    return lambda x: np.asarray(session.run(None, {"input": x.numpy()})[0])


def _pt2_runner(data: bytes) -> Runner:
    with _quiet():
        module = torch.export.load(io.BytesIO(data)).module()
    return lambda x: np.asarray(module(x).numpy())


def _compare(head: nn.Module, run: Runner, example: Tensor, split_point: str) -> None:
    random = torch.Generator().manual_seed(0)
    for batch in (1, 3):
        x = torch.randn(batch, *example.shape[1:], generator=random, dtype=example.dtype)
        with torch.inference_mode():
            expected = head(x).numpy()
            try:
                found = run(x)
            except Exception as error:  # whatever the engine does with a batch it cannot take
                raise CaptureError(
                    f"the exported head of {split_point!r} does not run on a batch of {batch}: {_first_line(error)}"
                ) from error
        if found.shape != expected.shape:
            raise CaptureError(
                f"the exported head of {split_point!r} gives {found.shape}, expected {expected.shape}"
            )
        off = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))
        if not off <= _TOLERANCE:
            raise CaptureError(
                f"the exported head of {split_point!r} computes something else: relative error {off:.2g} on a batch "
                f"of {batch}, expected at most {_TOLERANCE:g}"
            )


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot write the head ({error.strerror or error})") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters print progress and warn about their own internals."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _first_line(error: BaseException) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:300]}"
