"""Processes that share a calibration set, on one host or several.

``torchrun`` starts them. Each measures its own blocks of photos, and the first one merges what they
found. What travels between them are bytes of safetensors and JSON, never pickles.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Final

import torch
import torch.distributed as dist

from ..errors import DataError, IsplitError, from_json
from ..image import Image

__all__ = ["ONE_PROCESS", "Block", "Processes", "blocks", "launched_processes"]

Block = list[tuple[int, Image, int | None]]
"""Neighbouring photos of the calibration set: number, image and class id of each."""

_WAIT: Final = timedelta(days=7)
"""One process may wait for another as long as a share takes: torchrun ends them if one is lost."""


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that share a calibration set; by default this one alone.

    Attributes:
        rank: the number of this process, from 0.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process merges, measures times, writes files and reports."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """This process, for messages."""
        return f"process {self.rank} of {self.count} on {platform.node()}"

    def owns(self, number: int) -> bool:
        """Whether this process does piece ``number`` of some work: the pieces are dealt in turn."""
        return number % self.count == self.rank

    def own_photos(self, total: int, size: int) -> int:
        """How many of ``total`` photos are in blocks of ``size`` that this process owns."""
        numbers = range(0, total, size)
        return sum(
            min(size, total - start) for block, start in enumerate(numbers) if self.owns(block)
        )

    def gather(self, data: bytes, to: int = 0) -> list[bytes]:
        """What every process hands over, by rank, at process ``to``; an empty list at the others.

        Raises IsplitError if another process ended.
        """
        if self.rank != to:
            _send(data, to)
            return []
        return [data if rank == to else _receive(rank) for rank in range(self.count)]

    def broadcast(self, data: bytes) -> bytes:
        """What the first process hands over, at every process.

        Raises IsplitError if another process ended.
        """
        if not self.is_first:
            return _receive(0)
        for rank in range(1, self.count):
            _send(data, rank)
        return data

    @contextmanager
    def agreed(self) -> Iterator[list[str]]:
        """Let all processes agree on facts that the body appends, or fail together.

        An error of a body is raised in every process. Raises DataError for different facts.
        """
        facts: list[str] = []
        error: IsplitError | None = None
        try:
            yield facts
        except IsplitError as raised:
            if self.count == 1:
                raise
            error = raised
        if self.count > 1:
            self._agree(facts, error)

    def _agree(self, facts: list[str], error: IsplitError | None) -> None:
        state = {"process": self.name, "facts": facts, "error": error and error.to_json()}
        states = [json.loads(data) for data in self.gather(json.dumps(state, default=str).encode())]
        unlike = [each for each in states if each["error"]]
        unlike = unlike or [each for each in states if each["facts"] != facts]
        for other in json.loads(self.broadcast(json.dumps(unlike[:1]).encode())):
            if error is not None:
                raise error
            if other["error"]:
                other["error"]["error"] = f"{other['process']}: {other['error']['error']}"
                raise from_json(other["error"], status=500)
            raise DataError(
                f"all processes must measure the same: the first has {', '.join(facts)}; "
                f"{other['process']} has {', '.join(other['facts'])}"
            )


ONE_PROCESS: Final = Processes()
"""This process alone."""


def blocks(images: Iterable[tuple[Image, int | None]], size: int) -> Iterator[Block]:
    """The photos in blocks of ``size``, numbered from 0."""
    numbered = ((number, image, label) for number, (image, label) in enumerate(images))
    while block := list(islice(numbered, size)):
        yield block


@contextmanager
def launched_processes() -> Iterator[Processes]:
    """The processes that torchrun started together with this one; this one alone without it.

    Each takes a CUDA device of its own, as far as its host has them.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield ONE_PROCESS
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("gloo", timeout=_WAIT)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def _send(data: bytes, rank: int) -> None:
    _exchange(lambda: dist.send(torch.tensor([len(data)]), rank))
    if data:
        # A tensor wants a buffer that can be written to.
        _exchange(lambda: dist.send(torch.frombuffer(bytearray(data), dtype=torch.uint8), rank))


def _receive(rank: int) -> bytes:
    length = torch.zeros(1, dtype=torch.int64)
    _exchange(lambda: dist.recv(length, rank))
    data = torch.empty(int(length), dtype=torch.uint8)
    if len(data):
        _exchange(lambda: dist.recv(data, rank))
    return data.numpy().tobytes()


def _exchange(step: Callable[[], object]) -> None:
    try:
        step()
    except RuntimeError as error:
        raise IsplitError("another process ended before its share was done") from error
