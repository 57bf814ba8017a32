"""Traffic with classes that are apart, and a device that has their exit."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isplit_plugin.exits import (
    NONE,
    Exit,
    ExitRelease,
    ExitStatement,
    new_keys,
    pool,
    read_private_key,
    unsigned,
)
from isplit_plugin.schema import Cut
from isplit_plugin.traffic import (
    ExitPolicy,
    ExitRecorder,
    ExitVersion,
    Store,
    look,
    read_version,
)
from toys.traffic import NETWORK

CUT = Cut("layer1", "uint8")
SHAPE = (6, 3, 3)
"""Of an activation, without batch."""
POLICY = ExitPolicy(min_photos=20, min_devices=0, tolerance=0.2, contact_s=1000.0)


@dataclass
class ExitTraffic:
    """A server with one worker and one device that is in step with it.

    ``centers`` (classes, channels): where the activations of each class are.
    """

    store: Store
    recorder: ExitRecorder
    key: bytes
    policy: ExitPolicy = POLICY
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    centers: npt.NDArray[np.float64] = field(default_factory=lambda: 4 * np.eye(4, SHAPE[0]))

    @classmethod
    def make(cls, store: Store, url: str, folder: Path, **options: Any) -> ExitTraffic:
        private, _ = new_keys(folder / "exit.key")
        recorder = ExitRecorder(url, NETWORK, sampling=1.0, flush_s=60.0, **options)
        return cls(store, recorder, read_private_key(private))

    def activation(self, class_id: int) -> npt.NDArray[np.float32]:
        noise = self.random.normal(size=SHAPE)
        return (self.centers[class_id][:, None, None] + noise).astype(np.float32)

    def send(
        self,
        class_ids: npt.ArrayLike,
        *,
        device: str | None = None,
        answer: int | None = None,
        audit: bool = False,
    ) -> int:
        """Send a photo of each class, as a device with the exit does; how many statements it made.

        ``answer``: the full network's, where it is another one.
        """
        exit_ = None if self.version() is None else self.exit()
        statements = 0
        for class_id in np.asarray(class_ids).tolist():
            values = self.activation(class_id)
            statement = None
            if exit_ is not None:
                said = exit_.answer(pool(values, 1, exit_.pooling))
                if said.class_id != NONE:
                    statement = str(
                        ExitStatement(exit_.version, said.class_id, said.bin, audit=audit)
                    )
                    statements += 1
            full = class_id if answer is None else answer
            now = time.time()
            self.recorder.offer(CUT, values, 1, full, at=now, device=device, statement=statement)
        assert self.recorder.flush(60.0)
        return statements

    def look(self) -> None:
        """Let the keeper look once."""
        look(self.store.exits, self.key, self.policy)

    def version(self) -> ExitVersion | None:
        """The version that is alive."""
        now = time.time()
        return next((v for v in self.store.exits.versions(NETWORK) if v.is_alive(now)), None)

    def exit(self) -> Exit:
        """The exit that is alive."""
        version = self.version()
        assert version is not None
        content = self.store.exits.content(NETWORK, version.exit)
        assert content is not None
        return read_version(content)

    def release(self) -> ExitRelease:
        """Of the version that is alive."""
        version = self.version()
        assert version is not None
        return ExitRelease.from_bytes(unsigned(version.release))

    def prove(self, photos: int = 100) -> None:
        """Traffic of all classes until the exit is released."""
        classes = np.tile(np.arange(len(self.centers)), photos)
        self.send(classes)
        self.look()
        self.send(classes)
        self.look()
