"""The tail handler, with the milliseconds of its parts in a header of each answer.

The benchmark `overhead` puts it into an archive in place of ``handlers/tail_handler.py``.
"""

from __future__ import annotations

import functools
import json
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from isplit_plugin.serving.tail import TailService, keep_loaded
from isplit_plugin.serving.tail import service as module
from isplit_plugin.serving.tail.metrics import TailMetrics
from isplit_plugin.serving.tail.request import TailJob
from isplit_plugin.serving.tail.runner import TailRunner
from isplit_plugin.serving.tail.statistics import Statistics

HEADER = "X-Parts"
_STATE: dict[str, TailService] = {}
_SPENT: dict[str, float] = defaultdict(float)


def _timed(owner: Any, name: str, part: str) -> None:
    function: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(function)
    def timed(*args: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **named)
        finally:
            _SPENT[part] += (time.perf_counter() - started) * 1e3

    setattr(owner, name, timed)


for _owner, _name, _part in (
    (module, "read_tail_job", "read"),
    (TailJob, "decode", "decode"),
    (TailRunner, "run", "tail"),
    (TailService, "_response", "top classes"),
    (TailService, "_answer", "answer"),
    (TailService, "_record", "record"),
    (TailMetrics, "_add", "metrics"),
    (Statistics, "observe", "recorder"),
    (Statistics, "offer", "sampler"),
):
    _timed(_owner, _name, _part)


def handle(data: Any, context: Any) -> list[str | bytes] | None:
    """Answer a batch of requests."""
    if data is None:
        _STATE["service"] = TailService(context)
        keep_loaded()
        return None
    _SPENT.clear()
    started = time.perf_counter()
    answers = _STATE["service"].handle(data, context)
    _SPENT["handler"] = (time.perf_counter() - started) * 1e3
    context.set_response_header(0, HEADER, json.dumps(_SPENT))
    return answers
