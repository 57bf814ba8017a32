"""Exporting heads for devices, as ONNX or as ``.pt2``.

ONNX is data and runs on small engines. A ``.pt2`` is code, for devices with PyTorch that trust
whoever built it. Both take a batch of any size: ``input`` (N, ...) -> ``activation`` (N, ...), or
``scores`` (N, classes) for the whole network.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
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
from .wording import first_line

__all__ = ["export_head", "export_part"]

Format = Literal["onnx", "pt2"]

_FORMATS: Final = ("onnx", "pt2")
_TOLERANCE: Final = 1e-4
"""Largest error relative to the largest value. Another engine is off by 1e-6, a wrong operator by
1e-1 and more."""

Runner = Callable[[Tensor], FloatArray]


def export_head(
    net: CapturedNetwork, split_point: str, path: str | Path, format: Format = "onnx"
) -> str:
    """Write the head of a split point (``output``: the whole network).

    Before the file gets its name, it is read back, run on a batch of one and of three, and compared
    with the PyTorch head. ONNX is run only if onnxruntime is installed; otherwise just its
    structure is checked. The file holds no paths of this machine.

    Returns the SHA-256 of the file.

    Raises:
        SplitPointError: not a split point, or ``input``, which has no head.
        UnknownSplitPointError: no tensor has this name.
        CaptureError: the head cannot be exported, or the exported head computes something else.
        ArtifactError: the file cannot be written, or the format is unknown.
    """
    net = on_device(net, "cpu")
    head, _ = net.bisect(split_point)
    if isinstance(head, nn.Identity):
        raise SplitPointError(f"nothing runs before {split_point!r}, so it has no head")
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
    format: Format = "onnx",
) -> str:
    """:func:`export_head` for any module on the CPU, such as a head followed by an encoder.

    Parameters:
        part: input (N, ...) -> output (N, ...).
        example: a batch of inputs.
        split_point: the name to write into the file and into messages.
        output: the name of the output.

    Raises CaptureError, ArtifactError.
    """
    if format not in _FORMATS:
        raise ArtifactError(f"head format: expected one of {', '.join(_FORMATS)}, got {format!r}")
    program = _program(part, example, split_point)
    run: Runner | None
    if format == "onnx":
        data = _onnx_bytes(program, output, split_point)
        run = _onnx_runner(data, split_point)
    else:
        data = _pt2_bytes(program)
        run = _pt2_runner(data)
    if run is not None:
        _compare(part, run, example, split_point)
    try:
        write_atomically(path, data)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot write the head ({error.strerror or error})") from error
    return hashlib.sha256(data).hexdigest()


def _program(head: nn.Module, example: Tensor, split_point: str) -> ExportedProgram:
    try:
        program = torch.export.export(
            head, (example,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False
        )
    except Exception as error:  # torch.export raises many types, some of them private
        raise CaptureError(
            f"the head of {split_point!r} cannot be exported: {first_line(error)}"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths and source lines of this machine
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
        _strip_debug_data(model)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        model.producer_name = "isplit-plugin"
        onnx.helper.set_model_props(model, {"isplit_split_point": split_point})
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))
    except CaptureError:
        raise
    except Exception as error:  # errors of the exporter, its optimiser and protobuf
        raise CaptureError(
            f"the head of {split_point!r} cannot be converted to ONNX: {first_line(error)}"
        ) from error


def _strip_debug_data(model: Any) -> None:
    """Remove file paths and source lines, which take several times the space of the graph."""
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
        *model.functions,
    ):
        del part.metadata_props[:]
        part.doc_string = ""


def _onnx_runner(data: bytes, split_point: str) -> Runner | None:
    """Runs an ONNX model; ``None`` without onnxruntime."""
    try:
        import onnxruntime as ort
    except ImportError:
        return None
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exceptions of onnxruntime have no common base
        raise CaptureError(
            f"onnxruntime refuses the head of {split_point!r}: {first_line(error)}"
        ) from error
    return lambda x: np.asarray(session.run(None, {"input": x.numpy()})[0])


def _pt2_bytes(program: ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()


def _pt2_runner(data: bytes) -> Runner:
    with _quiet():
        module = torch.export.load(io.BytesIO(data)).module()
    return lambda x: np.asarray(module(x).numpy())


def _compare(head: nn.Module, run: Runner, example: Tensor, split_point: str) -> None:
    """Check that an exported head computes what the PyTorch head does. Raises CaptureError."""
    exported_head = f"the exported head of {split_point!r}"
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 3):
        x = torch.randn(batch, *example.shape[1:], generator=generator, dtype=example.dtype)
        with torch.inference_mode():
            expected = head(x).numpy()
            try:
                values = run(x)
            except Exception as error:  # an engine that cannot take this batch
                raise CaptureError(
                    f"{exported_head} does not run on a batch of {batch}: {first_line(error)}"
                ) from error
        if values.shape != expected.shape:
            raise CaptureError(
                f"{exported_head}: expected shape {expected.shape}, got {values.shape}"
            )
        largest = max(float(np.abs(expected).max()), 1e-30)
        difference = float(np.abs(values - expected).max()) / largest
        if not difference <= _TOLERANCE:
            raise CaptureError(
                f"{exported_head} computes something else: relative error {difference:.2g} on a "
                f"batch of {batch}, expected at most {_TOLERANCE:g}"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress messages of the exporters, and warnings about their own internals."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
