"""Capturing a network: from a trained module to a functional graph with named split points."""

from __future__ import annotations

import inspect
import io
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._pytree import tree_leaves

from ..errors import CaptureError
from ..schema import SplitPoint
from . import blocks, graph, layout, macs, naming
from .captured_network import CapturedNetwork


def capture(model: nn.Module, example_input: torch.Tensor) -> CapturedNetwork:
    """Capture a classifier: one input (N, ...) of floating point -> class scores (N, classes).

    The network is put in eval mode meanwhile and set back afterwards. ``example_input`` may hold one item: the batch
    dimension becomes free. The captured network shares the model's parameters, and its scores equal the model's bit for
    bit; only nn.MultiheadAttention rounds differently where torch takes its fused path for inference
    (torch.backends.mha), which has no gradient.

    Raises CaptureError for several inputs or outputs, for control flow that depends on data, and for whatever else
    torch.export cannot capture, naming the place.
    """
    example = _example(model, example_input)
    with _eval_mode(model):
        program, calls = _export(model, example)
        module = graph.build(program)
        _check_static(module)
        _check_output(module)
        with torch.no_grad():
            expected = model(example)
        seen = _Shapes(module)
        with torch.no_grad():
            actual = seen.run(example)
        _check_equal(expected, actual)
        with torch.no_grad():
            _check_independent(module, example)
        paths = blocks.block_paths(model)
        layers = {path for path, m in model.named_modules() if blocks.is_layer(m)}
    points, names = _describe(module, calls, seen, example, (paths, layers))
    return CapturedNetwork(program, module, names, points)


def _describe(
    module: GraphModule,
    module_calls: naming.ModuleCalls,
    seen: _Shapes,
    example: torch.Tensor,
    modules: tuple[set[str], set[str]],
) -> tuple[dict[str, SplitPoint], dict[str, tuple[str, ...]]]:
    """Split points and names, by node name. ``modules``: the paths of blocks and of single layers."""
    analysis = graph.analyse(module.graph)
    calls = module_calls.resolve(module.graph)
    names = naming.name_tensors(module.graph, calls, analysis.dependent)
    axes = layout.channel_axes(module.graph, analysis.dependent, seen.shapes)
    costs = macs.split(analysis, macs.count(module, example), analysis.cuts)
    ends = blocks.block_outputs(modules[0], calls, modules[1])
    points: dict[str, SplitPoint] = {}
    for node, cost in zip(analysis.cuts, costs, strict=True):
        value = node.meta["val"]
        shape = seen.shapes[node][1:]
        points[node.name] = SplitPoint(
            name=names[node][0],
            aliases=names[node][1:],
            shape=shape,
            dtype=str(value.dtype).removeprefix("torch."),
            nbytes=value.dtype.itemsize * int(torch.Size(shape).numel()),
            macs=cost,
            channel_axis=axes[node],
            stride_order=seen.orders[node],
            is_block=node in ends,
        )
    return points, {node.name: all_names for node, all_names in names.items()}


class _Shapes(Interpreter):
    """Runs the graph once and keeps shapes and memory layouts: the real ones, operators do not always promise them."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[Node, tuple[int, ...]] = {}
        self.orders: dict[Node, tuple[int, ...]] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n] = tuple(value.shape)
            self.orders[n] = layout.stride_order(value)
        return value


def _example(model: object, given: object) -> torch.Tensor:
    """A batch of two: torch.export takes a batch of one for a constant."""
    if not isinstance(model, nn.Module):
        raise CaptureError(f"expected a torch.nn.Module, got {type(model).__name__}")
    required = required_inputs(model)
    if len(required) > 1:
        raise CaptureError(
            f"expected a network of one input, this one needs {len(required)}: {', '.join(required)}"
        )
    if isinstance(given, tuple | list) and len(given) == 1:
        given = given[0]
    if not isinstance(given, torch.Tensor):
        number = f" of {len(given)}" if isinstance(given, tuple | list) else ""
        raise CaptureError(
            f"expected one input tensor, got {type(given).__name__}{number}: one input is supported"
        )
    if not given.is_floating_point():
        raise CaptureError(f"expected an input of floating point, got {given.dtype}")
    if given.dim() < 2 or 0 in given.shape:
        raise CaptureError(
            f"expected an input (N, ...) with a batch dimension, got shape {tuple(given.shape)}"
        )
    given = given.detach()
    # cat keeps channels_last, which repeat does not.
    return given[:2].clone() if len(given) > 1 else torch.cat([given, given])


def required_inputs(model: nn.Module) -> list[str]:
    """The names of the inputs that have no default."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind in positional]


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def _export(model: nn.Module, example: torch.Tensor) -> tuple[ExportedProgram, naming.ModuleCalls]:
    paths = [path for path, _ in model.named_modules() if path]
    try:
        return _traced(model, example, paths)
    except Exception as error:  # torch.export raises a dozen kinds, some private
        failure = error
        # It cannot record the calls of a module that is given a batch size: do without that module's name.
        odd = _given_batch_sizes(model, example)
    if odd:
        try:
            return _traced(model, example, [path for path in paths if path not in odd])
        except Exception as error:
            failure = error
    raise CaptureError(f"torch.export cannot capture the network: {_explain(failure)}") from failure


def _traced(
    model: nn.Module, example: torch.Tensor, paths: list[str]
) -> tuple[ExportedProgram, naming.ModuleCalls]:
    """Export and decompose, recording the calls of the modules at ``paths``."""
    # Shapes and layout alone matter; an example of zeros keeps the caller's data out of saved files.
    with redirect_stderr(io.StringIO()):  # where it fails it prints the whole graph, twice
        program = torch.export.export(
            model,
            (torch.zeros_like(example),),
            dynamic_shapes=({0: Dim("batch", min=1)},),
            strict=False,
            preserve_module_call_signature=tuple(paths),
        )
    calls = naming.ModuleCalls(program)
    return program.run_decompositions({}), calls


def _given_batch_sizes(model: nn.Module, example: torch.Tensor) -> set[str]:
    """Paths of the modules that take or return a number made of the batch size; none where the network does not run.

    The batch tried is a prime that sizes of networks are seldom multiples of.
    """
    odd: set[str] = set()
    batch = 11

    def look(path: str, *values: Any) -> None:
        if any(type(leaf) is int and leaf and leaf % batch == 0 for leaf in tree_leaves(values)):
            odd.add(path)

    handles = [
        module.register_forward_hook(
            lambda _, *values, path=path: look(path, *values), with_kwargs=True
        )
        for path, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            model(torch.cat([example[:1]] * batch))
    except Exception:  # the reason is in the error of torch.export
        return set()
    finally:
        for handle in handles:
            handle.remove()
    return odd


def _explain(error: BaseException) -> str:
    """The kind of the error, its first sentence, and the line of the model that it came from."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    kind = type(error).__name__
    lowered = f"{kind} {error}".lower()
    if "datadependent" in lowered or "data-dependent" in lowered:
        text = f"control flow depends on data; {text}"
    elif "positional argument" in lowered or "treespec" in lowered:
        text = f"expected a network of one input; {text}"
    elif "constraint" in lowered or "specialized" in lowered or "not all values of" in lowered:
        text = f"the batch dimension is not free; {text}"
    where = _model_line(error)
    return f"{kind}: {text[:500]}" + (f" (at {where})" if where else "")


def _model_line(error: BaseException) -> str | None:
    # Frames of ours, of torch and of the standard library (which may hold site-packages) say nothing about the model.
    foreign = [Path(__file__).resolve().parent, Path(torch.__file__).resolve().parent]
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        of_python = standard in path.parents and "site-packages" not in path.parts
        if (
            path.suffix == ".py"
            and not of_python
            and not any(folder in path.parents for folder in foreign)
        ):
            return f"{path.name}:{frame.lineno}: {frame.line}"
    return None


def _check_static(module: GraphModule) -> None:
    """No number or shape may come out of the data: head and tail are graphs of tensors of known shapes."""
    for node in module.graph.nodes:
        unknown = [
            leaf for leaf in tree_leaves(node.meta.get("val")) if free_unbacked_symbols(leaf)
        ]
        if unknown:
            where = [
                line.strip()
                for line in (node.meta.get("stack_trace") or "").splitlines()
                if line.strip()
            ]
            place = f" (at {', '.join(where[-2:])})" if where else ""
            raise CaptureError(
                f"expected tensors of shapes that are known beforehand, {node.target} makes a number or a shape that "
                f"depends on data{place}"
            )


def _check_output(module: GraphModule) -> None:
    value = graph.result(module.graph).meta.get("val")
    batch = graph.placeholder(module.graph).meta["val"].shape[0]
    if (
        not isinstance(value, torch.Tensor)
        or value.dim() != 2
        or not isinstance(value.shape[1], int)
    ):
        shape = (
            tuple(map(str, value.shape))
            if isinstance(value, torch.Tensor)
            else type(value).__name__
        )
        raise CaptureError(f"expected class scores (N, classes), the network returns {shape}")
    if str(value.shape[0]) != str(batch):
        raise CaptureError(
            f"expected one row of scores for each input, the network returns {value.shape[0]} rows"
        )


def _check_equal(expected: object, actual: torch.Tensor) -> None:
    if not isinstance(expected, torch.Tensor):
        raise CaptureError(
            f"expected one output tensor, the network returns {type(expected).__name__}"
        )
    if not torch.allclose(
        expected, actual, rtol=1e-4, atol=1e-5 * float(expected.abs().max()), equal_nan=True
    ):
        raise CaptureError(
            "the captured graph does not compute what the network computes: largest difference "
            f"{float((expected - actual).abs().max()):.3g}. Is it random in eval mode, or does it keep state?"
        )


def _check_independent(module: GraphModule, example: torch.Tensor) -> None:
    """Requests of strangers share a batch: the scores of one must not depend on the other."""
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0)).to(example)
    spread = float(example.std()) or 1.0
    first = example[:1] + 0.1 * spread * noise[:1]
    alone = module(torch.cat([first, noise[1:] * spread]))[0]
    beside = module(torch.cat([first, example[1:] - 2 * spread * noise[1:]]))[0]
    difference = float((alone - beside).abs().max())
    if difference > 1e-4 * float(alone.abs().max()) + 1e-12:
        raise CaptureError(
            f"the scores of an item change with its neighbours in a batch (by {difference:.3g}, of at most "
            f"{float(alone.abs().max()):.3g}), so requests would disturb one another; does a batch norm run without "
            "running statistics (track_running_stats=False)?"
        )
