"""Memory of the endpoint's worker: its service object, in this process, over many revisions.

The store holds 1,000 classes by 40 points. Before each round of questions one observation is added,
which makes a new revision. No question is asked twice, so nothing that was kept is ever asked for
again: the worst that a cache can meet. The resident memory must stay flat.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from isplit_plugin.serving.endpoint import Endpoint
from isplit_plugin.serving.settings import STORE_VARIABLE
from isplit_plugin.traffic import Delta, Store

from .harness import Row, row
from .store import CLASSES, NETWORK, POINTS, _fill, _manifest, _observation, _profile

_KINDS = 8


class _Context:
    """What the endpoint needs of TorchServe's context."""

    model_yaml_config = None

    def __init__(self, path: str = "") -> None:
        self._path = path
        self.status = 200

    def get_all_request_header(self, _: int) -> dict[str, str]:
        return {"url_path": self._path} if self._path else {}

    def set_response_content_type(self, _: int, value: str) -> None:
        assert value == "application/json"

    def set_response_status(self, status: int, _phrase: str, _index: int) -> None:
        self.status = status


def _question(number: int) -> tuple[dict[str, Any], str]:
    """Row and path of the question with this number."""
    classes = [number * 7 % CLASSES, number * 11 % CLASSES, number // CLASSES]
    listed = ",".join(map(str, classes))
    many = ",".join(str((number + 10 * i) % CLASSES) for i in range(100))
    link = {"rtt_ms": 1 + number / 1000, "bandwidth_mbps": 4}
    questions: tuple[tuple[dict[str, Any], str], ...] = (
        ({"body": {"model": "big", "constraints": link}}, ""),
        ({"body": {"model": "big", "classes": classes, "constraints": link}}, ""),
        ({"body": b""}, f"recommendations/big/classes/{listed}"),
        ({"body": b""}, f"curves/big/classes/{listed}"),
        ({"body": b""}, f"accuracy/big/classes/{listed}"),
        ({"body": b""}, f"curves/big/classes/{many}"),
        ({"body": b""}, f"classes/big/group/g{number // _KINDS % 8}"),
        ({"body": {"model": "big", "group": f"g{number // _KINDS % 8}"}}, ""),
    )
    return questions[number % _KINDS]


def _resident_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 1e6


def run(quick: bool = False) -> list[Row]:
    """Rows of the resident memory after the first tenth of the revisions, and of its growth."""
    revisions, questions = (20, 20) if quick else (40, 60)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[STORE_VARIABLE] = url = f"sqlite:///{Path(folder, 'store.db')}"
        with Store(url) as store:
            random = np.random.default_rng(0)
            store.put_network(_manifest(), _profile(random))
            _fill(store, 1e4, random)
            one = Delta(np.ones(POINTS), store.half_life_s, CLASSES)
            one.add_observation(_observation(0))
            endpoint = Endpoint(_Context())
            memory, kept = [], []
            for revision in range(revisions):
                store.add(NETWORK, one)
                for number in range(questions):
                    body, path = _question(revision * questions + number)
                    context = _Context(path)
                    (answer,) = endpoint.handle([body], context)
                    assert context.status == 200, answer
                memory.append(_resident_mb())
                kept.append(endpoint.describe()["cached_bytes"] / 1e6)
            endpoint.close()
    first = revisions // 10
    asked = (revisions - first) * questions
    return [
        row(f"resident memory after {first * questions} questions", memory[first - 1], "MB"),
        row(
            f"growth over the next {asked} questions",
            memory[-1] - memory[first - 1],
            "MB",
            expected="< 20",
        ),
        row("kept in the cache, at most", max(kept), "MB", expected="<= 32"),
    ]
