"""The file of a captured network: ``.pt2`` with the names and split points of its tensors."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule

from ..errors import ArtifactError
from ..schema import SplitPoint
from .graphs import graph

_FORMAT = 1
_EXTRA_FILE = "isplit.json"


class NetworkParts(NamedTuple):
    """The parameters of :class:`.captured_network.CapturedNetwork`."""

    program: ExportedProgram
    module: GraphModule
    names: Mapping[str, tuple[str, ...]]
    points: Mapping[str, SplitPoint]


def write(
    path: Path,
    program: ExportedProgram,
    names: Mapping[str, tuple[str, ...]],
    points: Mapping[str, SplitPoint],
) -> None:
    """Write a network. Raises ArtifactError if the file cannot be written."""
    description = {
        "format": _FORMAT,
        "names": names,
        "points": {node: asdict(point) for node, point in points.items()},
    }
    try:
        with warnings.catch_warnings():
            # torch warns about channels_last weights, but saves them completely.
            warnings.filterwarnings("ignore", "No complete tensor found in the group", UserWarning)
            torch.export.save(program, path, extra_files={_EXTRA_FILE: json.dumps(description)})
    except (OSError, RuntimeError) as error:
        raise ArtifactError(f"{path}: cannot write the network ({error})") from error


def read(path: Path) -> NetworkParts:
    """Read a network. Raises ArtifactError for a missing file, another kind, or a newer format."""
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    extra_files: dict[str, Any] = {_EXTRA_FILE: ""}
    try:
        program = torch.export.load(path, extra_files=extra_files)
        description = json.loads(extra_files[_EXTRA_FILE])
        if int(description["format"]) > _FORMAT:
            raise ArtifactError(
                f"{path}: expected format {_FORMAT} or older, got {description['format']}"
            )
        module = graph.build(program)
        names = {str(node): tuple(map(str, own)) for node, own in description["names"].items()}
        points = {
            str(node): SplitPoint.from_json(point) for node, point in description["points"].items()
        }
    except ArtifactError:
        raise
    except Exception as error:  # errors of torch, zipfile and pickle
        raise ArtifactError(
            f"{path}: expected a captured network ({type(error).__name__}: {error})"
        ) from error
    missing = (names.keys() | points.keys()) - {node.name for node in module.graph.nodes}
    if missing:
        raise ArtifactError(
            f"{path}: names tensors that its graph does not have: {', '.join(sorted(missing)[:5])}"
        )
    return NetworkParts(program, module, names, points)
