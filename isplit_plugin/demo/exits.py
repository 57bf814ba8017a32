"""The demo's devices answer by themselves: live traffic teaches an exit, proves it, and it speaks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..client import fetch_exits
from ..device_tokens import issue, read_secret
from ..report import Page, add_exits
from ..schema import Cut
from ..terminal import exits_text
from .phase import Phase
from .photos import Photo, view
from .preparation import MODEL
from .traffic import Traffic

PHOTOS: Final = 4
"""Photos whose views the cameras see: exits pay where traffic is concentrated."""
TEACHERS: Final = 24
"""Cameras that teach the exit, with one view of each photo."""
CAMERAS: Final = 80
"""Cameras that see a view of each photo afterwards, at most. Each has one voice an hour and class.
"""
AFTERWARDS: Final = 60
"""Photos that are still classified after the first one that the exit answered."""
TOLERANCE: Final = 0.05
_VERSION_TIMEOUT_S: Final = 30.0


def server_settings(private_key: Path) -> dict[str, dict[str, Any]]:
    """What the server needs for exits. Traffic is short here: the defaults ask for more of it."""
    policy = {"min_photos": 20, "min_devices": 20, "tolerance": TOLERANCE, "check_s": 1}
    return {
        "tail": {"exits": {"enabled": True, "sampling": 1.0, "flush_s": 0.5}},
        "endpoint": {"exit_key_file": str(private_key), "exits": policy},
    }


@dataclass(frozen=True)
class Exits:
    """What came of the exit.

    Attributes:
        cut: whose exit it is.
        labels: the names of the classes.
        taught: photos that were sent to teach it.
        rows: what the device process printed of the photos after that; none where there was no
            exit in time.
        audits: of the exit's answers that were sent afterwards.
        listing: the endpoint's, at the end, of this cut alone.
    """

    cut: Cut
    labels: tuple[str, ...]
    taught: int
    rows: tuple[dict[str, Any], ...]
    audits: int
    listing: Mapping[str, Any]

    @property
    def sentences(self) -> list[str]:
        """What happened, in words."""
        known = [
            f"{TEACHERS} cameras see views of {len(self.labels)} photos: {', '.join(self.labels)}. "
            f"Their {self.taught} requests at {self.cut} teach an exit what the full network says.",
        ]
        answered = [row for row in self.rows if row["path"] == "exit"]
        if not answered:
            return [*known, "It did not come so far that it answers a photo."]
        sent = [row for row in self.rows if row["path"] != "exit"]
        first = self.rows.index(answered[0])
        times = [float(np.median([row["total_ms"] for row in rows])) for rows in (sent, answered)]
        right = sum(row["predicted_class"] == row["true_class"] for row in answered)
        return [
            *known,
            f"Other cameras send {first} photos while the exit only watches. Then it is proven to "
            f"differ in at most {TOLERANCE:.0%} of its answers, with a risk of "
            f"{self.listing['alpha']:.0%}. (The default tolerance, 1 %, takes at least 459.)",
            f"Of the next {len(self.rows) - first} photos the device answers {len(answered)} by "
            f"itself, {right} of them correctly, in {times[1]:.0f} ms instead of {times[0]:.0f} "
            f"(medians on this machine, without a slow link). {self.audits} of these were sent "
            "afterwards, as audits: at first every one is, so exits save time before they save "
            "bytes.",
        ]

    def text(self) -> str:
        """The sentences, and the classes as the endpoint lists them."""
        return "\n".join([*self.sentences, "", exits_text(self.listing)])

    def add_to(self, page: Page) -> None:
        """Add sections to the report."""
        page.section("Answers at the device")
        page.text(*self.sentences)
        add_exits(page, self.listing)


def answer_on_devices(
    traffic: Traffic, phase: Phase, photos: Sequence[Photo], *, exit_key: Path
) -> Exits:
    """Let cameras send views of a few photos, until their exit answers some of them.

    Parameters:
        phase: an earlier phase of the photos. It says of which photos the network is sure.
        exit_key: the public key.
    """
    chosen = _surest(phase, photos)
    cut = traffic.usual_cut(traffic.built.manifest.deployed[-1])
    secret = read_secret(traffic.server.secret_path)
    tokens = [issue(secret, f"porch-{number}", days=1) for number in range(TEACHERS + CAMERAS)]
    rng = np.random.default_rng([traffic.seed, 9])
    shots = _shots(traffic.scratch / "exits", chosen, tokens, cut, rng)
    taught = TEACHERS * len(chosen)
    rows, _ = traffic.run_device("device", shots[:taught])
    later: tuple[dict[str, Any], ...] = ()
    audits = 0
    if _has_version(traffic, cut):
        more = {"exit_key": str(exit_key), "stop_after_exit": AFTERWARDS}
        later, last = traffic.run_device("device", shots[taught:], more)
        audits = last["audits"]
    labels = dict.fromkeys(
        row["label"] for row in rows if row["predicted_class"] == row["true_class"]
    )
    everything = _listing(traffic)
    own = [row for row in everything["exits"] if row["cut"] == str(cut)]
    listing = {**everything, "exits": own}
    return Exits(cut, tuple(labels), taught, later, audits, listing)


def _surest(phase: Phase, photos: Sequence[Photo]) -> list[Photo]:
    """The photos whose views got their own class with the highest mean probability."""

    def certainty(photo: Photo) -> float:
        rows = [row for row in phase.rows if row["true_class"] == photo.class_id]
        hits = [row["probability"] for row in rows if row["predicted_class"] == photo.class_id]
        return float(sum(hits)) / max(1, len(rows))

    return sorted(photos, key=certainty, reverse=True)[:PHOTOS]


def _shots(
    folder: Path,
    photos: Sequence[Photo],
    tokens: Sequence[str],
    cut: Cut,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """One view of each photo for each camera, camera by camera."""
    folder.mkdir()
    shots = []
    for camera, token in enumerate(tokens):
        for photo in photos:
            file = folder / f"{camera:03}-{photo.class_id}.png"
            view(photo, rng).save(file, compress_level=1)
            shots.append(
                {"file": str(file), "class_id": photo.class_id, "cut": str(cut), "token": token}
            )
    return shots


def _has_version(traffic: Traffic, cut: Cut) -> bool:
    """Wait until the endpoint has made an exit for the cut."""
    deadline = time.monotonic() + _VERSION_TIMEOUT_S
    while time.monotonic() < deadline:
        for row in _listing(traffic)["exits"]:
            if row["cut"] == str(cut) and row["versions"]:
                return True
        time.sleep(0.5)
    return False


def _listing(traffic: Traffic) -> Mapping[str, Any]:
    server = traffic.server
    return fetch_exits(server.inference_url, MODEL, server.token, timeout=(5.0, 30.0))
