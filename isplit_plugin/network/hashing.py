"""The network hash, which tells whether a head and a tail belong together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from operator import attrgetter
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.immutable_collections import immutable_dict, immutable_list

from ..schema import Preprocessing
from .graphs.graph import op_name

_CHUNK_BYTES = 64 << 20


def network_hash(module: GraphModule, preprocessing: Preprocessing) -> str:
    """SHA-256 over graph, weights and preprocessing, as 64 hexadecimal digits.

    The graph enters as operators, arguments and shapes in execution order; names of nodes, devices
    and memory layouts do not enter. Weights enter as paths, types, shapes and little-endian
    row-major bytes.
    """
    digest = hashlib.sha256()
    digest.update(_json(["isplit-network", 1, asdict(preprocessing)]))
    numbers: dict[Node, int] = {}
    for node in module.graph.nodes:
        numbers[node] = len(numbers)
        digest.update(_json(_describe(node, numbers)))
        if node.op == "get_attr":
            value = attrgetter(str(node.target))(module)
            if isinstance(value, torch.Tensor):
                for chunk in _chunks(value):
                    digest.update(chunk)
    return digest.hexdigest()


def _describe(node: Node, numbers: dict[Node, int]) -> list[Any]:
    value = node.meta.get("val")
    shape = None
    if isinstance(value, torch.Tensor):
        # The spelling of symbolic sizes varies; the operators' arguments determine them.
        sizes = [size if isinstance(size, int) else "*" for size in value.shape]
        shape = [str(value.dtype), sizes]
    return [
        node.op,
        _target(node),
        getattr(node.target, "_overloadname", ""),
        _canonical(node.args, numbers),
        _canonical(node.kwargs, numbers),
        shape,
    ]


def _target(node: Node) -> str:
    if node.op == "placeholder":
        return "input"
    if node.op == "output":
        return "output"
    return str(node.target) if node.op == "get_attr" else op_name(node)


def _canonical(value: Any, numbers: dict[Node, int]) -> Any:
    """A node's argument as JSON types that are the same in every process and on every device."""
    if isinstance(value, Node):
        return {"node": numbers[value]}
    if isinstance(value, tuple | list | immutable_list):
        return [_canonical(item, numbers) for item in value]
    if isinstance(value, dict | immutable_dict):
        return {
            str(key): _canonical(item, numbers)
            for key, item in sorted(value.items())
            if not isinstance(item, torch.device)
        }
    if isinstance(value, torch.device):
        return "device"
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value.hex()
    return str(value)


def _chunks(tensor: torch.Tensor) -> Iterator[bytes]:
    """The bytes of a tensor in row-major order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    for start in range(0, len(flat), _CHUNK_BYTES):
        yield flat[start : start + _CHUNK_BYTES].tobytes()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"
