"""The network hash: what a head and a tail must have in common to belong together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.immutable_collections import immutable_dict, immutable_list

from ..schema import Preprocessing
from .graph import op_name


def network_hash(module: GraphModule, preprocessing: Preprocessing) -> str:
    """SHA-256 over graph, weights and preprocessing, as hex.

    The graph enters as operators, arguments and shapes in execution order; node names, devices and memory layout do
    not. Weights enter as paths, types, shapes and little-endian row-major bytes.
    """
    digest = hashlib.sha256()
    digest.update(_json(["isplit-network", 1, asdict(preprocessing)]))
    number: dict[Node, int] = {}
    for node in module.graph.nodes:
        number[node] = len(number)
        digest.update(_json(_describe(node, number)))
        if node.op == "get_attr":
            value = _get(module, str(node.target))
            if isinstance(value, torch.Tensor):
                for chunk in _bytes(value):
                    digest.update(chunk)
    return digest.hexdigest()


def _get(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def _describe(node: Node, number: dict[Node, int]) -> list[Any]:
    value = node.meta.get("val")
    shape = None
    if isinstance(value, torch.Tensor):
        # Symbolic sizes are spelled differently from run to run; the operators' arguments already determine them.
        shape = [str(value.dtype), [size if isinstance(size, int) else "*" for size in value.shape]]
    target = {"placeholder": "input", "output": "output"}.get(node.op)
    if target is None:
        target = (
            str(node.target)
            if node.op == "get_attr" or not isinstance(node.target, object)
            else op_name(node)
        )
    overload = getattr(node.target, "_overloadname", "")
    return [
        node.op,
        target,
        overload,
        _canonical(node.args, number),
        _canonical(node.kwargs, number),
        shape,
    ]


def _canonical(value: Any, number: dict[Node, int]) -> Any:
    if isinstance(value, Node):
        return {"node": number[value]}
    if isinstance(value, tuple | list | immutable_list):
        return [_canonical(v, number) for v in value]
    if isinstance(value, dict | immutable_dict):
        return {
            str(k): _canonical(v, number)
            for k, v in sorted(value.items())
            if not isinstance(v, torch.device)
        }
    if isinstance(value, torch.device):
        return "device"
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value.hex()
    return str(value)


def _bytes(tensor: torch.Tensor) -> Iterable[bytes]:
    """The values in row-major order, whatever their type; 64 MiB at a time."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    step = 64 << 20
    for start in range(0, len(flat), step):
        yield flat[start : start + step].tobytes()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"
