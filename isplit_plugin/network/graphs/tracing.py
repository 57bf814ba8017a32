"""Tracing a model with torch.export, and explaining why it failed."""

from __future__ import annotations

import io
import sysconfig
import traceback
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_leaves

from ...errors import CaptureError
from ..wording import first_line
from .naming import ModuleCalls


def trace(model: nn.Module, example: torch.Tensor) -> tuple[ExportedProgram, ModuleCalls]:
    """Export and decompose a model in eval mode, and record its module calls.

    torch.export cannot record the calls of a module that takes or returns a batch size. If the
    export fails, it is tried again without those modules, whose tensors then get other names.

    Raises CaptureError that names the line of the model where the export failed.
    """
    paths = [path for path, _ in model.named_modules() if path]
    try:
        return _trace(model, example, paths)
    except Exception as error:  # torch.export raises many types, some of them private
        failure = error
        unrecordable = _modules_with_batch_size(model, example)
    if unrecordable:
        try:
            return _trace(model, example, [path for path in paths if path not in unrecordable])
        except Exception as error:
            failure = error
    raise CaptureError(f"torch.export cannot capture the network: {_explain(failure)}") from failure


def _trace(
    model: nn.Module, example: torch.Tensor, paths: list[str]
) -> tuple[ExportedProgram, ModuleCalls]:
    # The values of the example do not matter. Zeros keep the caller's data out of saved files.
    zeros = torch.zeros_like(example)
    with redirect_stderr(io.StringIO()):  # on failure torch.export prints the whole graph, twice
        program = torch.export.export(
            model,
            (zeros,),
            dynamic_shapes=({0: Dim("batch", min=1)},),
            strict=False,
            preserve_module_call_signature=tuple(paths),
        )
    calls = ModuleCalls(program)
    return program.run_decompositions({}), calls


def _modules_with_batch_size(model: nn.Module, example: torch.Tensor) -> set[str]:
    """The paths of the modules that take or return a multiple of the batch size.

    Empty if the model does not run; the error of torch.export then tells why.
    """
    batch = 11  # a prime of which the sizes in networks are rarely multiples
    paths: set[str] = set()

    def look_for_batch_size(path: str, *values: Any) -> None:
        for leaf in tree_leaves(values):
            if type(leaf) is int and leaf and leaf % batch == 0:
                paths.add(path)

    handles = [
        module.register_forward_hook(
            lambda _, *values, path=path: look_for_batch_size(path, *values), with_kwargs=True
        )
        for path, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            model(torch.cat([example[:1]] * batch))
    except Exception:
        return set()
    finally:
        for handle in handles:
            handle.remove()
    return paths


def _explain(error: BaseException) -> str:
    """The cause of an error of torch.export, if it is a common one, and its place in the model."""
    kind, _, text = first_line(error).partition(": ")
    lowered = f"{kind} {error}".lower()
    cause = ""
    if "datadependent" in lowered or "data-dependent" in lowered:
        cause = "control flow depends on data; "
    elif "positional argument" in lowered or "treespec" in lowered:
        cause = "expected a network with one input; "
    elif "constraint" in lowered or "specialized" in lowered or "not all values of" in lowered:
        cause = "the batch dimension is not free; "
    place = _line_of_model(error)
    return f"{kind}: {cause}{text}" + (f" (at {place})" if place else "")


def _line_of_model(error: BaseException) -> str | None:
    """The innermost source line of a traceback that is not this package's, torch's or Python's."""
    packages = [Path(__file__).resolve().parent, Path(torch.__file__).resolve().parent]
    standard_library = Path(sysconfig.get_path("stdlib")).resolve()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        # site-packages can be a folder inside the standard library's.
        of_python = standard_library in path.parents and "site-packages" not in path.parts
        of_package = any(package in path.parents for package in packages)
        if path.suffix == ".py" and not of_python and not of_package:
            return f"{path.name}:{frame.lineno}: {frame.line}"
    return None
